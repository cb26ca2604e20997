"""Solvers of other libraries behind one signature, for `benchmarks/solvers.py --peers`. None is a dependency.

    pip install --no-deps k-diffusion diffusers azula && pip install torchdiffeq torchsde

diff-sampler and smalldiffusion are not packages that install everywhere: clone them and name the clones with
`--peer-path` (github.com/zju-pi/diff-sampler, github.com/yuanchenyang/smalldiffusion).

Each is run in its own code on noise levels σ_0 > ... > σ_n > 0 with α = 1; a library that wants another scale is
given the state in that scale. Nothing jumps to σ = 0, and what clips data predictions has the clipping off.
"""

import importlib
import importlib.util
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["GRIDS", "Denoiser", "Peer", "load_peers", "uniform_in"]

Denoiser = Callable[[Tensor, float], Tensor]
# (denoiser, x at σ_0, σ) -> x at σ_n
Run = Callable[[Denoiser, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """One solver of another library.

    Attributes:
        name: library and solver.
        run: solves.
        grids: the grids of `GRIDS` that serve it best, all that `--peers few` tries; none if it never comes first.
        stochastic: whether it draws noise.
    """

    name: str
    run: Run
    grids: tuple[str, ...] = ()
    stochastic: bool = False


def uniform_in(to: Callable[[Any], Any], back: Callable[[Any], Any]) -> Callable[[int, float, float], Tensor]:
    def levels(n: int, low: float, high: float) -> Tensor:
        out = back(np.linspace(to(np.float64(high)), to(np.float64(low)), n + 1))
        out[0], out[-1] = high, low
        return torch.from_numpy(out)

    return levels


def _karras(rho: float) -> Callable[[int, float, float], Tensor]:
    return uniform_in(lambda s: s ** (1 / rho), lambda v: v**rho)


# σ at t under DDPM's β rising from 0.1 to 20: log(1 + σ²) = 9.95 t² + 0.1 t.
def _to_vp(s: Any) -> Any:
    return (-0.1 + np.sqrt(0.01 + 4 * 9.95 * np.log1p(s**2))) / (2 * 9.95)


GRIDS: dict[str, Callable[[int, float, float], Tensor]] = {
    "λ": uniform_in(np.log, np.exp),
    "Karras 3": _karras(3),
    "Karras 5": _karras(5),
    "Karras 7": _karras(7),
    "Karras 10": _karras(10),
    "Karras 20": _karras(20),
    "flow": uniform_in(lambda s: s / (1 + s), lambda u: u / (1 - u)),
    "cosine": uniform_in(np.arctan, np.tan),
    "VP": uniform_in(_to_vp, lambda t: np.sqrt(np.expm1(9.95 * t**2 + 0.1 * t))),
}


def load_peers(paths: Sequence[str] = ()) -> tuple[list[Peer], list[str]]:
    """All solvers of the libraries found, and a line on each library that is missing.

    Args:
        paths: clones of libraries that are not installed.
    """
    peers: list[Peer] = []
    missing: list[str] = []
    for name, make in _LIBRARIES.items():
        try:
            peers += make([Path(p).expanduser() for p in paths])
        except ImportError as error:
            missing.append(f"{name}: {error}")
    return peers, missing


def _broadcast(level: Tensor, ndim: int) -> Tensor:
    return level.reshape(-1, *[1] * (ndim - 1))


def _k_diffusion(paths: list[Path]) -> list[Peer]:
    try:
        sampling = importlib.import_module("k_diffusion.sampling")
    except ImportError:
        # Its __init__ imports its training code, and that torchvision and more; the samplers need one function of it.
        found = importlib.util.find_spec("k_diffusion")
        if found is None or found.submodule_search_locations is None:
            raise ImportError("not installed (pip install --no-deps k-diffusion)") from None
        package, utils = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
        package.__path__ = list(found.submodule_search_locations)
        utils.append_dims = lambda v, ndim: v[(...,) + (None,) * (ndim - v.ndim)]  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
        sampling = importlib.import_module("k_diffusion.sampling")

    def peer(name: str, function: str, grids: tuple[str, ...] = (), noisy: bool = False, **options: Any) -> Peer:
        def run(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
            # The Brownian tree is slow and has the same distribution.
            extra = {"noise_sampler": lambda *_: torch.randn_like(x)} if "noise_sampler" in takes else {}
            out: Tensor = method(
                lambda x, s: denoise(x, float(s[0])), x, levels.to(x), disable=True, **extra, **options
            )
            return out

        method = getattr(sampling, f"sample_{function}")
        takes = method.__wrapped__.__code__.co_varnames
        return Peer(f"k-diffusion {name}", run, grids, noisy)

    churn = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    return [
        peer("Euler", "euler"),
        peer("Heun", "heun", ("Karras 7",)),
        peer("DPM-2", "dpm_2"),
        *(peer(f"LMS-{k}", "lms", order=k) for k in (2, 3, 4)),
        peer("DPM++ 2M", "dpmpp_2m", ("λ", "Karras 7")),
        peer("DPM++ 2S", "dpmpp_2s_ancestral", eta=0.0),
        peer("DPM++ 2M SDE η=0", "dpmpp_2m_sde", eta=0.0, solver_type="heun"),
        peer("DPM++ 3M SDE η=0", "dpmpp_3m_sde", eta=0.0),
        peer("ancestral", "euler_ancestral", ("λ", "Karras 7"), True),
        peer("DPM-2 ancestral", "dpm_2_ancestral", ("λ",), True),
        peer("DPM++ 2S ancestral", "dpmpp_2s_ancestral", ("λ",), True),
        peer("DPM++ SDE", "dpmpp_sde", ("λ",), True),
        peer("DPM++ 2M SDE midpoint", "dpmpp_2m_sde", ("λ", "Karras 7"), True),
        peer("DPM++ 2M SDE Heun", "dpmpp_2m_sde", ("λ", "Karras 7"), True, solver_type="heun"),
        peer("DPM++ 3M SDE", "dpmpp_3m_sde", ("λ", "Karras 7"), True),
        peer("Heun with churn", "heun", ("Karras 7",), True, **churn),
    ]


def _diffusers(paths: list[Path]) -> list[Peer]:
    diffusers = importlib.import_module("diffusers")

    def predict(denoise: Denoiser, x: Tensor, level: float) -> Tensor:
        return (x - denoise(x, level)) / level

    def peer(name: str, scheduler: str, grids: tuple[str, ...] = (), noisy: bool = False, **options: Any) -> Peer:
        def run(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
            # Their schedules are discrete: made once, then every level replaced. The state is x/√(1 + σ²).
            made = getattr(diffusers, scheduler)(**options)
            steps = len(levels) - 1
            made.set_timesteps(steps)
            made.sigmas, made.timesteps = levels, torch.arange(steps)
            made.set_begin_index(0)
            scales = (1 + levels**2).rsqrt().tolist()
            x = x * scales[0]
            for i, level in enumerate(levels[:-1].tolist()):
                x = made.step(predict(denoise, x / scales[i], level), made.timesteps[i], x).prev_sample.to(x)
            last: Tensor = x / scales[-1]
            return last

        return Peer(f"diffusers {name}", run, grids, noisy)

    def ipndm(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
        made = diffusers.IPNDMScheduler()
        steps = len(levels) - 1
        made.set_timesteps(steps)
        angle = levels.arctan()
        made.alphas, made.betas, made.timesteps = angle.cos(), angle.sin(), torch.arange(steps)
        made.set_begin_index(0)
        scales = angle.cos().tolist()
        x = x * scales[0]
        for i, level in enumerate(levels[:-1].tolist()):
            mean = denoise(x / scales[i], level)
            # Its models predict v = α ε − σ x₀.
            v = (x - scales[i] * mean) / level - scales[i] * level * mean
            x = made.step(v, made.timesteps[i], x).prev_sample
        last: Tensor = x / scales[-1]
        return last

    multistep: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
    dpm, unipc = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
    out = [Peer("diffusers iPNDM-4", ipndm, ("λ", "Karras 5", "flow"))]
    for low in (False, True):
        tail = ", lower at the end" if low else ""
        more: dict[str, Any] = {"lower_order_final": bool(low)}
        for kind, label in (("dpmsolver++", "DPM++"), ("dpmsolver", "DPM")):
            for k in (2, 3):
                options = {**multistep, **more, "algorithm_type": kind, "solver_order": k}
                out.append(peer(f"{label} {k}M{tail}", dpm, **options))
        options = {**multistep, **more, "algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "heun"}
        out.append(peer(f"DPM++ 2M Heun{tail}", dpm, **options))
        for kind in ("bh1", "bh2"):
            for k in (1, 2, 3):
                grids = ("λ", "Karras 5", "Karras 7") if kind == "bh2" and k > 1 and not low else ()
                options = {**multistep, **more, "solver_type": kind, "solver_order": k}
                out.append(peer(f"UniPC-{k} {kind}{tail}", unipc, grids, **options))
        for k in (2, 3):
            out.append(peer(f"DEIS-{k}{tail}", "DEISMultistepScheduler", solver_order=k, **more))
    for k in (1, 2, 3):
        sde = {**multistep, "algorithm_type": "sde-dpmsolver++", "solver_order": k}
        out.append(peer(f"SDE-DPM++ {k}M", dpm, ("λ",), True, **sde))
    for p, c in ((2, 2), (3, 4)):
        orders: dict[str, Any] = {"predictor_order": p, "corrector_order": c, "lower_order_final": False}
        out.append(peer(f"SA-Solver({p},{c})", "SASolverScheduler", ("λ",), True, tau_func=lambda _: 1.0, **orders))
        out.append(peer(f"SA-Solver({p},{c}) τ=0", "SASolverScheduler", tau_func=lambda _: 0.0, **orders))
    return out


def _azula(paths: list[Path]) -> list[Peer]:
    sample, denoise_module = importlib.import_module("azula.sample"), importlib.import_module("azula.denoise")

    def peer(name: str, sampler: str, grids: tuple[str, ...] = (), noisy: bool = False, **options: Any) -> Peer:
        def run(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
            steps = len(levels) - 1

            class Adapted(denoise_module.Denoiser):  # type: ignore[misc, name-defined]
                # Its time runs from 1 to 0 in equal steps.
                def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
                    level = levels[((1 - t) * steps).round().long()].to(x)
                    return torch.ones_like(level), level

                def forward(self, x: Tensor, t: Tensor, **_: Any) -> Any:
                    return denoise_module.DiracPosterior(mean=denoise(x, float(self.schedule(t)[1])))

            made = getattr(sample, f"{sampler}Sampler")
            out: Tensor = made(Adapted(), steps=steps, silent=True, dtype=torch.float64, **options)(x)
            return out

        return Peer(f"azula {name}", run, grids, noisy)

    return [
        peer("Euler", "Euler"),
        peer("Heun", "Heun"),
        *(peer(f"zAB-{k}", "zAB", order=k) for k in (2, 3, 4)),
        *(peer(f"vAB-{k}", "vAB", ("flow",) if k > 2 else (), order=k) for k in (2, 3, 4)),
        *(peer(f"zEAB-{k}", "zEAB", order=k) for k in (2, 3, 4)),
        *(peer(f"xEAB-{k}", "xEAB", _XEAB if k == 4 else (), order=k) for k in (2, 3, 4)),
        *(peer(f"REAB-{k}", "REAB", order=k) for k in (2, 3)),
        peer("DDPM", "DDPM", ("λ",), True),
        peer("DDIM η=0.5", "DDIM", ("λ",), True, eta=0.5),
        peer("Itô", "Ito", ("λ", "Karras 7"), True),
        peer("predictor-corrector", "PC", (), True),
    ]


_XEAB = ("Karras 7", "Karras 10", "Karras 20")


def _clone(paths: Iterable[Path], inside: str, hint: str) -> Path:
    for path in paths:
        if (path / inside).is_file():
            return path / inside
    raise ImportError(f"no {inside} in any --peer-path (clone {hint})")


def _by_path(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _diff_sampler(paths: list[Path]) -> list[Peer]:
    file = _clone(paths, "diff-solvers-main/solvers.py", "github.com/zju-pi/diff-sampler")
    sys.path.insert(0, str(file.parent))
    try:
        solvers = _by_path("diff_sampler_solvers", file)
    finally:
        sys.path.remove(str(file.parent))
    # Clips data predictions to their 99.5 % quantile, also outside of guidance.
    for module in (solvers, sys.modules["solver_utils"]):
        module.dynamic_thresholding_fn = lambda x: x  # type: ignore[union-attr]

    def peer(name: str, function: str, grids: tuple[str, ...] = (), deis: str = "", **options: Any) -> Peer:
        def run(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
            image = (len(x), -1, 1, 1)
            if deis:
                options["coeff_list"] = solvers.get_deis_coeff_list(levels, options["max_order"], deis_mode=deis)

            def net(y: Tensor, level: Tensor, class_labels: None = None) -> Tensor:
                return denoise(y.reshape(x.shape), float(level)).reshape(image)

            start = (x / levels[0]).reshape(image)
            method = getattr(solvers, f"{function}_sampler")
            out: Tensor = method(net, start, t_steps=levels, num_steps=len(levels), **options)
            return out.reshape(x.shape)

        return Peer(f"diff-sampler {name}", run, grids)

    best = {3: ("λ", "Karras 5", "Karras 7", "flow"), 4: ("λ", "Karras 5", "flow")}
    out = [peer("Heun", "heun"), peer("DPM-2", "dpm_2")]
    out += [peer(f"iPNDM-{k}", "ipndm", best.get(k, ()), max_order=k) for k in (2, 3, 4)]
    out += [peer(f"iPNDM_v-{k}", "ipndm_v", max_order=k) for k in (2, 3, 4)]
    out += [peer(f"DEIS tAB-{k}", "deis", deis="tab", max_order=k) for k in (2, 3, 4)]
    for data in (True, False):
        kind = "data" if data else "noise"
        more: dict[str, Any] = {"predict_x0": data, "lower_order_final": False}
        out += [peer(f"DPM++ {k}M {kind}", "dpm_pp", max_order=k, **more) for k in (2, 3)]
        for variant in ("bh1", "bh2"):
            for k in (1, 2, 3):
                grids = ("Karras 5",) if data and variant == "bh2" and k == 2 else ()
                out.append(peer(f"UniPC-{k} {variant} {kind}", "unipc", grids, max_order=k, variant=variant, **more))
    return out


def _smalldiffusion(paths: list[Path]) -> list[Peer]:
    try:
        module = importlib.import_module("smalldiffusion")
    except ImportError:
        inside = "src/smalldiffusion/diffusion.py"
        file = _clone(paths, inside, "github.com/yuanchenyang/smalldiffusion")
        module = _by_path("smalldiffusion_diffusion", file)

    def peer(name: str, gam: float, mu: float, grids: tuple[str, ...] = ()) -> Peer:
        def run(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
            model = types.SimpleNamespace(
                eval=lambda: None,
                rand_input=lambda n: torch.randn_like(x),
                predict_eps_cfg=lambda y, s, *_: (y - denoise(y, float(s))) / float(s),
            )
            accelerator = types.SimpleNamespace(device="cpu")
            *_, out = module.samples(model, levels, gam, mu, xt=x, accelerator=accelerator)
            last: Tensor = out
            return last

        return Peer(f"smalldiffusion {name}", run, grids, mu > 0)

    return [peer("accelerated", 2.0, 0.0, ("flow",)), peer("DDIM", 1.0, 0.0), peer("DDPM", 1.0, 0.5, ("λ",))]


def _torchsde(paths: list[Path]) -> list[Peer]:
    torchsde = importlib.import_module("torchsde")

    def peer(method: str, kind: str, levy: str, grids: tuple[str, ...] = ()) -> Peer:
        def run(denoise: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
            # In s = −log σ the reverse SDE is dx = 2 (D − x) ds + √2 σ dW.
            def drift(s: Tensor, y: Tensor) -> Tensor:
                return 2 * (denoise(y, math.exp(-float(s))) - y)

            def diffusion(s: Tensor, y: Tensor) -> Tensor:
                return torch.full_like(y, math.sqrt(2) * math.exp(-float(s)))

            sde = types.SimpleNamespace(noise_type="diagonal", sde_type=kind, f=drift, g=diffusion)
            s = (-levels.log()).tolist()
            seed = int(torch.randint(2**31, ()))
            path = torchsde.BrownianInterval(s[0], s[-1], x.shape, x.dtype, entropy=seed, levy_area_approximation=levy)
            for start, stop in itertools.pairwise(s):
                times = torch.tensor([start, stop], dtype=torch.float64)
                # A hair more, or round-off would leave a step of 1e-17 at the end.
                x = torchsde.sdeint(sde, x, times, bm=path, method=method, dt=(stop - start) * (1 + 1e-9))[-1]
            return x

        return Peer(f"torchsde {method}", run, grids, True)

    return [
        peer("euler", "ito", "none", ("λ",)),
        peer("srk", "ito", "space-time"),
        peer("heun", "stratonovich", "none"),
        peer("midpoint", "stratonovich", "none"),
    ]


_LIBRARIES: dict[str, Callable[[list[Path]], list[Peer]]] = {
    "k-diffusion": _k_diffusion,
    "diffusers": _diffusers,
    "azula": _azula,
    "diff-sampler": _diff_sampler,
    "smalldiffusion": _smalldiffusion,
    "torchsde": _torchsde,
}
