"""Statistics in files, and the distance for infinitely many samples."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.metrics import (
    ReferenceStatistics,
    frechet_from_moments,
    frechet_infinity,
    frechet_to_reference,
    kernel_to_reference,
    mmd,
)
from scoresde.metrics.features import moments
from scoresde.storage.bounded import CheckpointError


def normal(n: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    noise = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * noise + shift


def exact(width: int) -> ReferenceStatistics:
    return ReferenceStatistics(torch.zeros(width).double(), torch.eye(width).double())


def test_files(tmp_path: Path) -> None:
    x = normal(50, 4, 0)
    ReferenceStatistics.of(x, keep=True).save(tmp_path / "own.npz")
    with np.load(tmp_path / "own.npz", allow_pickle=False) as file:  # as EDM and pytorch-fid read it
        np.testing.assert_allclose(file["mu"], x.numpy().mean(0))
        np.testing.assert_allclose(file["sigma"], np.cov(x.numpy(), rowvar=False))
    back = ReferenceStatistics.load(tmp_path / "own.npz")
    assert back.n == 50
    assert torch.allclose(back.features.double(), x, atol=1e-6)
    np.savez(tmp_path / "edm.npz", mu=x.numpy().mean(0), sigma=np.cov(x.numpy(), rowvar=False))
    edm = ReferenceStatistics.load(tmp_path / "edm.npz")
    assert (edm.n, edm.features) == (None, None)
    assert torch.allclose(edm.covariance, back.covariance)


def test_files_of_features_and_of_edm2(tmp_path: Path) -> None:
    x = normal(50, 4, 0).numpy()
    np.savez(tmp_path / "score_sde.npz", pool_3=x, logits=np.zeros((50, 2)))
    found = ReferenceStatistics.load(tmp_path / "score_sde.npz")
    assert (found.n, found.features.shape) == (50, (50, 4))
    np.testing.assert_allclose(found.covariance, np.cov(x, rowvar=False))
    several = {
        "fid": {"mu": x.mean(0), "sigma": np.cov(x, rowvar=False)},
        "fd_dinov2": {"mu": np.ones(2), "sigma": np.eye(2)},
    }
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(several))
    assert torch.allclose(ReferenceStatistics.load(tmp_path / "edm2.pkl", "inception").mean, found.mean)
    assert ReferenceStatistics.load(tmp_path / "edm2.pkl", "dinov2").mean.tolist() == [1, 1]
    with pytest.raises(CheckpointError, match="statistics of inception and dinov2, not of clip"):
        ReferenceStatistics.load(tmp_path / "edm2.pkl", "clip")
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"fid": several["fid"]}))
    assert torch.allclose(ReferenceStatistics.load(tmp_path / "edm.pkl").mean, found.mean)
    (tmp_path / "program.pkl").write_bytes(pickle.dumps({"fid": Path("x")}))
    with pytest.raises(CheckpointError, match="only plain values and arrays are read"):
        ReferenceStatistics.load(tmp_path / "program.pkl")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"fid": 1}))
    with pytest.raises(CheckpointError, match="no pickle of statistics as EDM2's"):
        ReferenceStatistics.load(tmp_path / "other.pkl")


def test_what_the_features_are_is_kept(tmp_path: Path) -> None:
    ReferenceStatistics.of(normal(50, 4, 0), kind="inception(resize=pytorch)").save(tmp_path / "own.npz")
    assert ReferenceStatistics.load(tmp_path / "own.npz").kind == "inception(resize=pytorch)"


def test_files_that_are_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    np.savez(tmp_path / "b.npz", mu=np.zeros(3), sigma=np.eye(2))
    np.savez(tmp_path / "c.npz", mu=np.array([{}], dtype=object), sigma=np.eye(2))
    np.savez(tmp_path / "d.npz", mu=np.zeros(2), sigma=np.array([[1.0, 2.0], [0.0, 1.0]]))
    (tmp_path / "e.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:200])
    messages = {
        "a": "has no array 'mu', expected mu and sigma .* its arrays are x",
        "b": "expected \\(F,\\) and \\(F, F\\)",
        "c": "cannot be read as an npz file of numbers",
        "d": "not symmetric",
        "e": "cannot be read as an npz file of numbers",
    }
    for name, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            ReferenceStatistics.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        ReferenceStatistics.load(tmp_path / "f.npz")


def test_the_distance_is_that_of_the_moments() -> None:
    x, reference = normal(300, 5, 1, 1.3, 0.2), ReferenceStatistics.of(normal(400, 5, 2))
    expected = frechet_from_moments(x.mean(0), x.T.cov(), reference.mean, reference.covariance)
    found = frechet_to_reference(x, reference)
    assert found.value == pytest.approx(expected)
    assert found.n == 300


def test_the_standard_error_is_that_of_fresh_samples() -> None:
    found = [frechet_to_reference(normal(500, 5, seed, 1.3, 0.2), exact(5)) for seed in range(100)]
    scatter = torch.tensor([e.value for e in found]).std().item()
    assert torch.tensor([e.stderr for e in found]).mean().item() == pytest.approx(scatter, rel=0.25)


@pytest.mark.parametrize(("width", "n", "scale"), [(10, 1000, 1.0), (10, 1000, 1.2), (64, 1560, 1.0), (64, 520, 1.2)])
def test_extrapolation_takes_the_bias_away(width: int, n: int, scale: float) -> None:
    """A line through the distances leaves a tenth of the bias, which at 64 features is far outside the scatter."""
    repeats, true = 30, width * (scale - 1) ** 2
    plain, found = zip(
        *(
            (frechet_to_reference(x, exact(width)).value, frechet_infinity(x, exact(width)))
            for x in (normal(n, width, seed, scale) for seed in range(repeats))
        ),
        strict=True,
    )
    errors = torch.tensor([e.value - true for e in found])
    bias = torch.tensor(plain).mean().item() - true
    assert bias > 0.02
    assert abs(errors.mean().item()) < bias / 50 + 3 * errors.std().item() / repeats**0.5
    ratio = torch.tensor([e.stderr for e in found]).mean().item() / errors.square().mean().sqrt().item()
    assert 0.8 < ratio < 3.2  # too large where both are of one distribution


def test_a_covariance_with_negative_eigenvalues_is_rejected() -> None:
    covariance = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).double()
    with pytest.raises(ValueError, match="not positive semi-definite: its eigenvalues are -1 to 3"):
        frechet_to_reference(normal(10, 2, 0), ReferenceStatistics(torch.zeros(2).double(), covariance))
    rounded = ReferenceStatistics(torch.zeros(2).double(), torch.tensor([[1.0, 1 + 1e-7], [1 + 1e-7, 1.0]]).double())
    assert frechet_to_reference(normal(10, 2, 0), rounded).value > 0


def test_fewer_samples_than_features() -> None:
    x, reference = normal(8, 12, 3), ReferenceStatistics.of(normal(50, 12, 4))
    expected = frechet_from_moments(x.mean(0), x.T.cov(), reference.mean, reference.covariance)
    assert frechet_to_reference(x, reference).value == pytest.approx(expected)
    found = [frechet_to_reference(normal(8, 12, seed), reference) for seed in range(60)]
    scatter = torch.tensor([e.value for e in found]).std().item()
    assert torch.tensor([e.stderr for e in found]).mean().item() == pytest.approx(scatter, rel=0.35)


def test_features_of_a_file_are_taken_a_few_at_a_time(tmp_path: Path) -> None:
    """Moments of many rows in float32 with a large mean, whose squares float32 would lose."""
    x = normal(9000, 3, 5) + 1000
    np.save(tmp_path / "x.npy", x.float().numpy())
    view = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    mean, covariance = moments(view)
    assert torch.allclose(mean, x.mean(0), atol=1e-5)
    assert torch.allclose(covariance, x.float().double().T.cov(), rtol=1e-9)
    part = torch.tensor([5, 1, 8000])
    assert torch.allclose(moments(view, part)[1], view[part].double().T.cov(), rtol=1e-9)
    kept = ReferenceStatistics.of(view, keep=10)
    assert (kept.n, kept.features.shape) == (9000, (10, 3))
    assert torch.equal(kept.features[[0, -1]], view[[0, -1]])


def test_kernel_distances_of_many_samples_are_means_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(90, 3, 1, 1.5), normal(70, 3, 2)
    monkeypatch.setattr("scoresde.metrics.frechet_reference._KERNEL", 30)
    found = kernel_to_reference(x, ReferenceStatistics.of(y, keep=True))
    parts = [mmd(x[k : k + 23], y[k : k + 23], features=lambda v: v) for k in (0, 23, 46)]
    assert found.n == 69
    assert found.value == pytest.approx(sum(e.value for e in parts) / 3)
    assert found.stderr == pytest.approx(sum(e.stderr**2 for e in parts) ** 0.5 / 3)


def test_kernel_distance_needs_features() -> None:
    x, y = normal(60, 4, 1), normal(40, 4, 2)
    assert kernel_to_reference(x, ReferenceStatistics.of(y)) is None
    found = kernel_to_reference(x, ReferenceStatistics.of(y, keep=True))
    assert found.value == pytest.approx(mmd(x[:40], y, features=lambda v: v).value)
    assert found.n == 40


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="3 features and the reference 4"):
        frechet_to_reference(normal(10, 3, 0), exact(4))
    with pytest.raises(ValueError, match="20 samples of 4 features are too few .* at least 32"):
        frechet_infinity(normal(20, 4, 0), exact(4))
