"""Runge-Kutta methods as data: explicit ones for a fixed step, and embedded pairs with an error estimate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

__all__ = ["BOSH3", "DOP853", "DORMAND_PRINCE", "EXPLICIT_TABLEAUS", "TSIT5", "EmbeddedPair", "ExplicitTableau"]


@dataclass(frozen=True, repr=False)
class ExplicitTableau:
    """An explicit Runge-Kutta method for dy/dw = P.

    Stage j evaluates P at w + c_j h and y + h Σ_k a_jk P_k; the step ends at y + h Σ_j b_j P_j.

    Attributes:
        name: Name of the method.
        nodes: Nodes c, from 0, each in [0, 1].
        stages: Rows of A below the first, a_jk for k < j.
        weights: Weights b.

    Raises:
        ValueError: Not as many rows or weights as nodes, a row that does not sum to its node, or weights that do not
            sum to 1.

    >>> ExplicitTableau("ralston", (0, 2 / 3), ((2 / 3,),), (1 / 4, 3 / 4))
    ralston
    """

    name: str
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.nodes)
        lengths = [len(row) for row in self.stages]
        if lengths != list(range(1, count)) or len(self.weights) != count:
            raise ValueError(
                f"tableau {self.name} has {count} nodes, stages of {lengths} and {len(self.weights)} weights, "
                f"expected stages of {list(range(1, count))} and {count} weights"
            )
        if self.nodes[0] != 0 or not all(0 <= c <= 1 for c in self.nodes):
            raise ValueError(f"tableau {self.name} has nodes {self.nodes}, expected 0 first and all between 0 and 1")
        for c, row in zip(self.nodes[1:], self.stages, strict=True):
            if abs(math.fsum(row) - c) > 1e-12:
                raise ValueError(
                    f"tableau {self.name}: the row {row} sums to {math.fsum(row):g}, expected its node {c:g}"
                )
        if abs(math.fsum(self.weights) - 1) > 1e-12:
            raise ValueError(f"tableau {self.name}: the weights sum to {math.fsum(self.weights):g}, expected 1")

    def __repr__(self) -> str:
        return self.name


EXPLICIT_TABLEAUS = {
    tableau.name: tableau
    for tableau in (
        ExplicitTableau("euler", (0,), (), (1,)),
        ExplicitTableau("midpoint", (0, 1 / 2), ((1 / 2,),), (0, 1)),
        ExplicitTableau("heun", (0, 1), ((1,),), (1 / 2, 1 / 2)),
        # Ralston 1962, with the least bound on the local error at orders 2 and 3.
        ExplicitTableau("ralston", (0, 2 / 3), ((2 / 3,),), (1 / 4, 3 / 4)),
        ExplicitTableau("ralston3", (0, 1 / 2, 3 / 4), ((1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
        ExplicitTableau("heun3", (0, 1 / 3, 2 / 3), ((1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
        ExplicitTableau("kutta3", (0, 1 / 2, 1), ((1 / 2,), (-1, 2)), (1 / 6, 2 / 3, 1 / 6)),
        # Kutta 1901, the last two.
        ExplicitTableau("rk4", (0, 1 / 2, 1 / 2, 1), ((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
        ExplicitTableau(
            "three_eighths",
            (0, 1 / 3, 2 / 3, 1),
            ((1 / 3,), (-1 / 3, 1), (1, -1, 1)),
            (1 / 8, 3 / 8, 3 / 8, 1 / 8),
        ),
    )
}


@dataclass(frozen=True, repr=False)
class EmbeddedPair:
    """An explicit embedded pair, written so that its last stage is the first of the next step.

    Bogacki-Shampine, Dormand-Prince and Tsitouras use that last stage in their error estimate. DOP853 does not:
    there it is the next step's slope alone, which costs it one evaluation on a rejected step and at the end.

    Attributes:
        nodes: Nodes c.
        stages: Rows of A below the first; the last is the weights b of the step itself.
        error: Weights b − b̂ of the error estimate.
        order: Order k of a local error estimate that shrinks as step^k.
        coarse: Weights of a second estimate, which is combined with the first as in DOP853.
        dense: Polynomials of the dense output, y(t + c h) = y + h Σ_j k_j Σ_m dense_jm c^m with m from 1.
        extra: Rows of A of stages that only `dense` needs, after the others.
        name: Name, shown in place of the numbers.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int
    coarse: tuple[float, ...] | None = None
    dense: tuple[tuple[float, ...], ...] | None = None
    extra: tuple[tuple[float, ...], ...] = ()
    name: str = ""

    def __repr__(self) -> str:
        return self.name or f"EmbeddedPair({len(self.nodes)} nodes, order {self.order})"

    @property
    def extra_nodes(self) -> tuple[float, ...]:
        """Nodes c of the extra stages, the sums of their rows."""
        return tuple(math.fsum(row) for row in self.extra)

    def within(self, places: Tensor) -> Tensor:
        """Weights `(stages, m)` of the slopes at fractions `places` `(m,)` of a step.

        Raises:
            ValueError: A pair without a dense output.
        """
        table, powers = self._dense_output()
        return table @ places.double() ** powers

    def rates_within(self, places: Tensor) -> Tensor:
        """Weights `(stages, m)` of the slopes in dy/dt of the dense output at fractions `places` `(m,)` of a step.

        Raises:
            ValueError: A pair without a dense output.
        """
        table, powers = self._dense_output()
        return (table * powers[:, 0]) @ places.double() ** (powers - 1)

    def _dense_output(self) -> tuple[Tensor, Tensor]:
        """Coefficients `(stages, n)` of the dense output, and the powers of the fraction `(n, 1)` that they are of."""
        if self.dense is None:
            raise ValueError("this Runge-Kutta pair has no dense output: take one of those of scoresde.numerics.ode")
        table = torch.tensor(self.dense, dtype=torch.float64)
        return table, torch.arange(1, table.shape[1] + 1)[:, None]


# Bogacki & Shampine 1989; the dense output is the cubic of Hermite.
BOSH3 = EmbeddedPair(
    name="BOSH3",
    nodes=(0, 1 / 2, 3 / 4, 1),
    stages=((1 / 2,), (0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    order=3,
    dense=((1, -4 / 3, 5 / 9), (0, 1, -2 / 3), (0, 4 / 3, -8 / 9), (0, -1, 1)),
)

# Dormand & Prince 1980; the dense output is that of Shampine 1986, of order 4.
DORMAND_PRINCE = EmbeddedPair(
    name="DORMAND_PRINCE",
    nodes=(0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1),
    stages=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(
        35 / 384 - 5179 / 57600,
        0,
        500 / 1113 - 7571 / 16695,
        125 / 192 - 393 / 640,
        -2187 / 6784 + 92097 / 339200,
        11 / 84 - 187 / 2100,
        -1 / 40,
    ),
    order=5,
    dense=(
        (1, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432),
        (0, 0, 0, 0),
        (0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799),
        (0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072),
        (0, 127303824393 / 49829197408, -318862633887 / 49829197408, 701980252875 / 199316789632),
        (0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844),
        (0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423),
    ),
)


def _quartic(scale: float, a: float, b: float) -> tuple[float, ...]:
    """The polynomial scale c² (c² + a c + b)."""
    return 0.0, scale * b, scale * a, scale


# Tsitouras 2011, table 1, and section 5 for the dense output, of order 4.
TSIT5 = EmbeddedPair(
    name="TSIT5",
    nodes=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
    stages=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (
            0.09646076681806523,
            0.01,
            0.4798896504144996,
            1.379008574103742,
            -3.290069515436081,
            2.324710524099774,
        ),
    ),
    error=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    order=5,
    dense=(
        # −1.0530884977290216 c (c − 1.3299890189751412) (c² − 1.4364028541716351 c + 0.7139816917074209)
        (
            1.0530884977290216 * 1.3299890189751412 * 0.7139816917074209,
            -1.0530884977290216 * (0.7139816917074209 + 1.3299890189751412 * 1.4364028541716351),
            1.0530884977290216 * (1.3299890189751412 + 1.4364028541716351),
            -1.0530884977290216,
        ),
        _quartic(0.1017, -2.1966568338249754, 1.2949852507374631),
        _quartic(2.490627285651252793, -2.38535645472061657, 1.57803468208092486),
        _quartic(
            -16.54810288924490272, -1.21712927295533244 - 0.61620406037800089, 1.21712927295533244 * 0.61620406037800089
        ),
        _quartic(
            47.37952196281928122,
            -1.203071208372362603 - 0.658047292653547382,
            1.203071208372362603 * 0.658047292653547382,
        ),
        _quartic(-34.87065786149660974, -1.2 - 2 / 3, 0.8),
        _quartic(2.5, -1.6, 0.6),
    ),
)

# Hairer, Nørsett & Wanner 1993, II.5 and II.10; the digits are those of Hairer's own program.
# fmt: off
_EXTRA_853 = (
    (0.056167502283047954, 0, 0, 0, 0, 0, 0.25350021021662483, -0.2462390374708025, -0.12419142326381637,
     0.15329179827876568, 0.00820105229563469, 0.007567897660545699, -0.008298),
    (0.03183464816350214, 0, 0, 0, 0, 0.028300909672366776, 0.053541988307438566, -0.05492374857139099, 0, 0,
     -0.00010834732869724932, 0.0003825710908356584, -0.00034046500868740456, 0.1413124436746325),
    (-0.42889630158379194, 0, 0, 0, 0, -4.697621415361164, 7.683421196062599, 4.06898981839711, 0.3567271874552811, 0,
     0, 0, -0.0013990241651590145, 2.9475147891527724, -9.15095847217987),
)
_DENSE_853 = (
    (-8.428938276109013, 0, 0, 0, 0, 0.5667149535193777, -3.0689499459498917, 2.38466765651207, 2.117034582445028,
     -0.871391583777973, 2.2404374302607883, 0.6315787787694688, -0.08899033645133331, 18.148505520854727,
     -9.194632392478356, -4.436036387594894),
    (10.427508642579134, 0, 0, 0, 0, 242.28349177525817, 165.20045171727028, -374.5467547226902, -22.113666853125306,
     7.733432668472264, -30.674084731089398, -9.332130526430229, 15.697238121770845, -31.139403219565178,
     -9.35292435884448, 35.81684148639408),
    (19.985053242002433, 0, 0, 0, 0, -387.0373087493518, -189.17813819516758, 527.8081592054236, -11.57390253995963,
     6.8812326946963, -1.0006050966910838, 0.7777137798053443, -2.778205752353508, -60.19669523126412,
     84.32040550667716, 11.99229113618279),
    (-25.69393346270375, 0, 0, 0, 0, -154.18974869023643, -231.5293791760455, 357.6391179106141, 93.40532418362432,
     -37.45832313645163, 104.0996495089623, 29.8402934266605, -43.53345659001114, 96.32455395918828,
     -39.17726167561544, -149.72683625798564),
)
DOP853 = EmbeddedPair(
    name="DOP853",
    nodes=(0, 0.05260015195876773, 0.0789002279381516, 0.1183503419072274, 0.2816496580927726, 0.3333333333333333, 0.25,
           0.3076923076923077, 0.6512820512820513, 0.6, 0.8571428571428571, 1.0, 1.0),
    stages=(
        (0.05260015195876773,),
        (0.0197250569845379, 0.0591751709536137),
        (0.02958758547680685, 0, 0.08876275643042054),
        (0.2413651341592667, 0, -0.8845494793282861, 0.924834003261792),
        (0.037037037037037035, 0, 0, 0.17082860872947386, 0.12546768756682242),
        (0.037109375, 0, 0, 0.17025221101954405, 0.06021653898045596, -0.017578125),
        (0.03709200011850479, 0, 0, 0.17038392571223998, 0.10726203044637328, -0.015319437748624402,
         0.008273789163814023),
        (0.6241109587160757, 0, 0, -3.3608926294469414, -0.868219346841726, 27.59209969944671, 20.154067550477894,
         -43.48988418106996),
        (0.47766253643826434, 0, 0, -2.4881146199716677, -0.590290826836843, 21.230051448181193, 15.279233632882423,
         -33.28821096898486, -0.020331201708508627),
        (-0.9371424300859873, 0, 0, 5.186372428844064, 1.0914373489967295, -8.149787010746927, -18.52006565999696,
         22.739487099350505, 2.4936055526796523, -3.0467644718982196),
        (2.273310147516538, 0, 0, -10.53449546673725, -2.0008720582248625, -17.9589318631188, 27.94888452941996,
         -2.8589982771350235, -8.87285693353063, 12.360567175794303, 0.6433927460157636),
        (0.054293734116568765, 0, 0, 0, 0, 4.450312892752409, 1.8915178993145003, -5.801203960010585,
         0.3111643669578199, -0.1521609496625161, 0.20136540080403034, 0.04471061572777259),
    ),
    error=(0.01312004499419488, 0, 0, 0, 0, -1.2251564463762044, -0.4957589496572502, 1.6643771824549864,
           -0.35032884874997366, 0.3341791187130175, 0.08192320648511571, -0.022355307863886294, 0),
    order=8,
    coarse=(-0.18980075407240762, 0, 0, 0, 0, 4.450312892752409, 1.8915178993145003, -5.801203960010585,
            -0.4226823213237919, -0.1521609496625161, 0.20136540080403034, 0.02265179219836082, 0),
    extra=_EXTRA_853,
)
# fmt: on


def _dense_853(weights: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """The interpolant of order 7 (Hairer, Nørsett & Wanner 1993, eq. II.6.27), multiplied out."""
    first, last, step = np.eye(16)[0], np.eye(16)[len(weights)], np.pad(weights, (0, 16 - len(weights)))
    rows = (step, first - step, 2 * step - first - last, *_DENSE_853)
    # From the innermost outwards: c F₆, (1 − c)(F₅ + ...), c (F₄ + ...), ...
    total = np.zeros((1, 16))
    for k, row in zip(reversed(range(7)), reversed(rows), strict=True):
        inner = total + np.vstack((row, np.zeros((len(total) - 1, 16))))
        shifted = np.vstack((np.zeros((1, 16)), inner))
        total = shifted if k % 2 == 0 else np.vstack((inner, np.zeros((1, 16)))) - shifted
    return tuple(map(tuple, total[1:].T.tolist()))


DOP853 = replace(DOP853, dense=_dense_853(DOP853.stages[-1]))
