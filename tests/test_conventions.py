"""What docs/conventions.md and docs/architecture.md say holds: signs, units, orders, imports, and the form of modules.

Numbers of the machine are worked out by hand here, from the formula and not from the code.
"""

import ast
import importlib.util
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from pydantic import BaseModel

from calo4pqvae.annealer.chip.problem import ising_problem
from calo4pqvae.atomic import atomic_path
from calo4pqvae.config import Config
from calo4pqvae.evaluation.features.showers import shower_features
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.prior.graph.chips import MissingParts, chip_topology
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.geometry import geometry
from calo4pqvae.showers.store import ShowerStore
from calo4pqvae.testing import all_states, tiny_machine

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "calo4pqvae"
MODULES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
MOST_LINES = 500

FLOORS = (
    {"__init__", "errors", "seeds"},
    {"atomic", "config", "download"},
    {"showers", "prior"},
    {"annealer", "evaluation", "workshop", "testing"},
    {"models"},
    {"runs"},
    {"standalone"},
    {"annealed"},
    {"studies"},
    {"cli"},
)
"""The units of each floor, from the ground up; docs/architecture.md shows the same."""

PLACES = {
    "typer": ("cli/",),
    "rich": ("cli/",),
    "pooch": ("download.py",),
    "dwave": ("prior/graph/chips.py", "annealer/"),
    "dimod": ("annealer/",),
    "numba": ("prior/kernels/", "models/qvae/cascade/kernels/"),
    "llvmlite": ("prior/kernels/",),
    "triton": ("prior/kernels/",),
    "sklearn": ("evaluation/classifiers/",),
    "matplotlib": ("evaluation/", "annealed/", "standalone/bit_images.py", "studies/"),
    "mplhep": ("evaluation/",),
    "lightning_fabric": ("workshop/processes.py", "workshop/bench.py"),
}
"""Where a foreign package may be imported."""

TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "poisson"}
DRAWS_IN_PLACE = {
    "random_",
    "uniform_",
    "normal_",
    "bernoulli_",
    "exponential_",
    "geometric_",
    "cauchy_",
    "log_normal_",
}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls with the dotted name of what is called; an expression before the last dots counts as a question mark."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            yield name if re.fullmatch(r"[\w.]+", name) else "?." + name.rpartition(".")[2], node


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Everything that is imported anywhere in a module, inside functions too, as ``module.name`` or ``module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path) -> set[Path]:
    """Modules of the package that a module imports."""
    found = set()
    for name in imported_modules(TREES[path]):
        if name.partition(".")[0] == "calo4pqvae":
            parts = name.split(".")[1:]
            candidates = [SOURCE.joinpath(*parts[:length]) for length in range(len(parts), -1, -1)]
            files = [file for base in candidates for file in (base.with_suffix(".py"), base / "__init__.py")]
            found.add(next(file for file in files if file in TREES))
    return found


def unit_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


# --- the machine ------------------------------------------------------------------------------------------------


def hand_machine() -> BoltzmannMachine:
    """Three bits in partitions of one and two; b = (1/2, -1, 1/4), W_01 = 2, W_02 = -1/2."""
    machine = BoltzmannMachine(Topology("hand", (1, 2), np.array([[0, 1], [0, 2]])))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([0.5, -1.0, 0.25]))
        machine.couplings.copy_(torch.tensor([2.0, -0.5]))
    return machine


HAND_ENERGIES = {
    (0, 0, 0): 0.0,
    (0, 0, 1): -0.25,
    (0, 1, 0): 1.0,
    (0, 1, 1): 0.75,
    (1, 0, 0): -0.5,
    (1, 0, 1): -0.25,
    (1, 1, 0): -1.5,
    (1, 1, 1): -1.25,
}


def test_energy_and_law_of_a_machine_by_hand() -> None:
    machine = hand_machine()
    assert [tuple(map(int, state)) for state in all_states(3)] == list(HAND_ENERGIES)
    assert machine.energy(all_states(3)).tolist() == list(HAND_ENERGIES.values())
    for beta in (1.0, 0.5):
        weights = {state: math.exp(-beta * energy) for state, energy in HAND_ENERGIES.items()}
        z = sum(weights.values())
        law = enumerate_machine(machine, beta=beta)
        assert law.probabilities.dtype == torch.float64
        assert law.log_z == pytest.approx(math.log(z), rel=1e-12)
        assert law.first[0].item() == pytest.approx(sum(w for state, w in weights.items() if state[0]) / z, rel=1e-12)
        assert law.second[0].item() == pytest.approx(
            sum(w for state, w in weights.items() if state[0] and state[1]) / z, rel=1e-12
        )


def test_folded_condition_by_hand() -> None:
    machine = BoltzmannMachine(Topology("hand", (1, 1), np.array([[0, 1]])), n_condition=1)
    with torch.no_grad():
        machine.condition_weights.copy_(torch.tensor([[0.5, -2.0]]))
    condition = torch.full((4, 1), 3.0)
    assert machine.energy(all_states(2), condition).tolist() == [0.0, 6.0, -1.5, 4.5]  # states 00, 01, 10, 11


def test_couplings_are_one_number_a_coupler() -> None:
    topology = chip_topology("zephyr", 2, 12)
    machine = BoltzmannMachine(topology)
    n_pairs = topology.n_nodes * (topology.n_nodes - 1) // 2
    assert 0 < topology.n_edges < n_pairs / 2
    assert {name: tuple(values.shape) for name, values in machine.named_parameters()} == {
        "biases": (topology.n_nodes,),
        "couplings": (topology.n_edges,),
    }
    assert (topology.edges[:, 0] < topology.edges[:, 1]).all()


def test_partitions_may_differ_in_size() -> None:
    whole = chip_topology("zephyr", 1)
    lost = whole.node_labels[0]
    faulty = chip_topology("zephyr", 1, missing=MissingParts(qubits=(lost,)))
    assert len(set(whole.sizes)) == 1
    assert len(set(faulty.sizes)) == 2
    for machine in (BoltzmannMachine(faulty), tiny_machine(sizes=(3, 1, 2, 2))):
        edges, partition = machine.topology.edges, machine.topology.partition
        assert (partition[edges[:, 0]] != partition[edges[:, 1]]).all()
        assert [part.stop - part.start for part in machine.topology.slices] == list(machine.topology.sizes)
        sampler, generator = BlockGibbsSampler(machine), torch.Generator().manual_seed(1)
        states = sampler.sample(sampler.init(7, generator), 2, generator).states
        assert states.shape == (7, machine.n_nodes)
        assert set(states.unique().tolist()) <= {0.0, 1.0}


def test_spins_at_the_door_of_an_annealer() -> None:
    machine, beta = tiny_machine(), 4.0
    b, w = machine.biases.tolist(), machine.couplings.tolist()
    edges = [(int(i), int(j)) for i, j in machine.topology.edges]
    j_spin = {edge: -value / 4 for edge, value in zip(edges, w, strict=True)}
    h = [
        -bias / 2 - sum(value / 4 for edge, value in zip(edges, w, strict=True) if i in edge)
        for i, bias in enumerate(b)
    ]
    constant = -sum(b) / 2 - sum(w) / 4
    problem = ising_problem(machine, beta)
    assert (beta * problem.fields).tolist() == pytest.approx(h, abs=1e-6)
    assert (beta * problem.couplings).tolist() == pytest.approx(list(j_spin.values()), abs=1e-6)
    assert problem.constant == pytest.approx(constant, abs=1e-6)
    for state in itertools.product((0, 1), repeat=machine.n_nodes):
        s = [2 * bit - 1 for bit in state]
        ising = sum(h[i] * s[i] for i in range(len(s))) + sum(j * s[a] * s[c] for (a, c), j in j_spin.items())
        energy = machine.energy(torch.tensor([state], dtype=torch.float32)).item()
        assert energy == pytest.approx(ising + constant, abs=1e-5)
        assert problem.machine_energy([state])[0] == pytest.approx(energy, abs=1e-5)


# --- showers ----------------------------------------------------------------------------------------------------


def test_units_in_names() -> None:
    sections = [type(value) for _, value in Config() if isinstance(value, BaseModel)]
    energies = [name for section in sections for name in section.model_fields if "energy" in name]
    assert len(energies) >= 2
    assert [name for name in energies if not name.endswith("_mev")] == []
    with h5py.File(bundled_path("heldout")) as file:
        assert file.attrs["units"] == "MeV"
        low, high = geometry("ds2").energy_range or (0.0, 0.0)
        assert low <= file["incident_energies"][:].min() <= file["incident_energies"][:].max() <= high


def test_shower_arrays() -> None:
    grid = geometry("ds2")
    with h5py.File(bundled_path("heldout")) as file:
        assert file["incident_energies"].shape == (1700, 1)
        assert file["showers"].shape == (1700, grid.n_voxels)
        assert file["incident_energies"].dtype == file["showers"].dtype == np.float32
        energies, showers = file["incident_energies"][:5], file["showers"][:5]
    store = ShowerStore.from_file(bundled_path("heldout"), grid)
    batch, incident = store.batch(range(5))
    assert (batch.dtype, incident.dtype) == (torch.float32, torch.float32)
    np.testing.assert_array_equal(batch.numpy(), showers)
    np.testing.assert_array_equal(incident.numpy(), energies)
    features = shower_features(showers, energies, grid)
    assert features.incident_energy.dtype == np.float64


def test_voxel_order() -> None:
    grid = geometry("ds2")
    layers, angles, radii = grid.grid_shape
    assert (layers, angles, radii) == (45, 16, 9)
    layer, angle, ring = 7, 5, 3
    voxel = (layer * angles + angle) * radii + ring
    found = (grid.voxel_layers()[voxel], grid.voxel_alpha_index()[voxel], grid.voxel_radial_index()[voxel])
    assert found == (layer, angle, ring)
    shower = torch.zeros(1, grid.n_voxels)
    shower[0, voxel] = 1.0
    field = GridPlan(grid).to_grid(shower)
    assert field.shape == (1, 1, layers, angles, radii)
    assert field.nonzero().tolist() == [[0, 0, layer, angle, ring]]


# --- names, randomness, files -----------------------------------------------------------------------------------


def test_beta_is_inverse_temperature() -> None:
    """No setting is called beta, and the argument occurs only where there is a machine or an annealer to sample."""
    settings = [name for _, section in Config() for name in type(section).model_fields]
    assert {"tau_start", "kl_weight"} <= set(settings)
    assert [name for name in settings if "beta" in name] == []
    arguments = {
        name_of(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.arg) and node.arg == "beta"
    }
    samples = ("prior/", "annealer/", "annealed/", "cli/annealer.py", "studies/", "testing.py")
    assert arguments
    assert [name for name in arguments if not name.startswith(samples)] == []


def draws_without_source(tree: ast.AST) -> list[str]:
    """Draws that take no generator; first values of parameters are left out, they follow the seed of the run."""
    starts = {id(inner) for name, call in calls(tree) if name == "nn.Parameter" for inner in ast.walk(call)}
    found = []
    for name, call in calls(tree):
        last = name.rpartition(".")[2]
        is_torch = (name in {f"torch.{draw}" for draw in TORCH_DRAWS}) or last in DRAWS_IN_PLACE
        if is_torch and id(call) not in starts and "generator" not in {keyword.arg for keyword in call.keywords}:
            found.append(ast.unparse(call))
        is_global_numpy = name.startswith(("np.random.", "random.")) and last not in ("default_rng", "Generator")
        if is_global_numpy or (last == "default_rng" and not call.args) or last in ("rand_like", "randn_like"):
            found.append(ast.unparse(call))
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_draw_has_a_source(path: Path) -> None:
    assert draws_without_source(TREES[path]) == []


@pytest.mark.parametrize(
    "line", ["torch.rand(3)", "x[0].uniform_()", "np.random.default_rng()", "np.random.normal()", "torch.rand_like(x)"]
)
def test_a_draw_without_a_source_is_seen(line: str) -> None:
    assert draws_without_source(ast.parse(line)) != []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_pickled(path: Path) -> None:
    imports = {name.partition(".")[0] for name in imported_modules(TREES[path])}
    assert imports & PICKLERS == set()
    assert [name for name, _ in calls(TREES[path]) if name in ("torch.save", "torch.load")] == []
    assert "allow_pickle" not in path.read_text(encoding="utf-8")


def test_no_absolute_paths() -> None:
    pattern = re.compile(r"(?<![\w.:/<])(?:/(?:home|Users|root|mnt|scratch|work|gpfs|eos|cvmfs)/\w|[A-Z]:\\\w)")
    folders = [ROOT / name for name in ("src", "tests", "tools", "benchmarks", "docs")]
    skipped = {"_build", "__pycache__"}
    files = [path for folder in folders for path in folder.rglob("*") if not skipped & set(path.parts)]
    files += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".txt", ".cff", ".yaml")]
    files += [ROOT / "Makefile"]
    texts = [path for path in files if path.is_file() and path.suffix not in (".hdf5", ".png", ".npz")]
    assert len(texts) > len(MODULES)
    found = [f"{path.relative_to(ROOT)}: {hit}" for path in texts for hit in pattern.findall(path.read_text("utf-8"))]
    assert found == []


def test_an_output_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("before", encoding="utf-8")

    def fail_half_way() -> None:
        with atomic_path(target) as partial:
            partial.write_text("half", encoding="utf-8")
            raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError, match="dies"):
        fail_half_way()
    assert target.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [target]


# --- code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    if path.parent == SOURCE and path.name in ("__init__.py", "__main__.py"):
        return  # the package's lazy names and its start reach everything
    floor = {unit: number for number, units in enumerate(FLOORS) for unit in units}
    unit = unit_of(path)
    assert unit in floor, f"{unit} has no floor: give it one here and in docs/architecture.md"
    others = {unit_of(other) for other in own_imports(path)} - {unit}
    assert sorted(other for other in others if floor[other] >= floor[unit]) == []


def test_no_circle_inside_a_package() -> None:
    graph = {path: {other for other in own_imports(path) if unit_of(other) == unit_of(path)} for path in MODULES}
    assert sum(map(len, graph.values())) > 0
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("package", "allowed"), [("prior", {"errors", "atomic", "download"}), ("showers", {"errors", "atomic", "download"})]
)
def test_ground_floor_stands_alone(package: str, allowed: set[str]) -> None:
    paths = [path for path in MODULES if unit_of(path) == package]
    assert paths
    assert {unit_of(other) for path in paths for other in own_imports(path)} - {package} <= allowed


@pytest.mark.parametrize("foreign", PLACES)
def test_foreign_packages_stay_in_their_place(foreign: str) -> None:
    users = [
        name_of(path)
        for path in MODULES
        if foreign in {name.partition(".")[0] for name in imported_modules(TREES[path])}
    ]
    assert users
    assert [user for user in users if not user.startswith(PLACES[foreign])] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_say_what_they_are(path: Path) -> None:
    tree = TREES[path]
    assert ast.get_docstring(tree)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    if path.name == "__init__.py" and path.parent != SOURCE:
        assert len(tree.body) == 1, "the __init__ of a subpackage holds a docstring only"
        return
    if path.parent == SOURCE and path.name in ("__init__.py", "__main__.py"):
        return  # the names of the first are those of tests/test_package.py, the second has none
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(listed) == 1
    bound = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    bound |= {
        ast.unparse(target)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    assert set(listed[0]) <= bound


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_library_neither_prints_nor_exits(path: Path) -> None:
    names = {name for name, _ in calls(TREES[path])}
    assert "print" not in names
    if name_of(path) != "cli/main.py":
        assert names & {"sys.exit", "exit", "quit", "os._exit"} == set()


def test_the_command_line_starts_light() -> None:
    program = (
        "import sys; import calo4pqvae.cli.main; "
        "print(*sorted({'torch', 'h5py', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- the pages themselves ---------------------------------------------------------------------------------------


def test_conventions_name_tests_that_exist() -> None:
    text = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    defined: dict[str, Callable[..., None]] = {
        name: value for name, value in globals().items() if name.startswith("test_")
    }
    assert len(named) > 15
    assert named <= set(defined)
    for file in re.findall(r"`(tests/[\w/]+\.py)`", text):
        assert (ROOT / file).is_file(), file


def test_architecture_shows_the_floors() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*?) \|", text, re.MULTILINE)
    shown = {int(number): set(re.findall(r"`(\w+)`", units)) for number, units in rows}
    assert shown == {number: units - {"__init__"} for number, units in enumerate(FLOORS)}


def module_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("module_pages", ROOT / "tools" / "module_pages.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_pages_of_modules_are_up_to_date() -> None:
    """The listing of docs/architecture.md and docs/api; `python tools/module_pages.py` writes them anew."""
    tool = module_pages()
    assert tool.stale() == []
    listed = re.findall(r"^ *- `(\w+\.py)`: .*[.?]$", tool.PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in MODULES if path.name != "__init__.py")


def test_a_page_of_modules_out_of_date_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = module_pages()
    monkeypatch.setattr(tool, "first_sentence", lambda path: f"Changed {path.stem}.")
    assert tool.PAGE in tool.stale()


def test_the_root_holds_few_modules() -> None:
    assert len([path for path in MODULES if path.parent == SOURCE]) <= 10


def test_the_index_lists_the_reference() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^api/(\w+)$", text, re.MULTILINE)) == {
        page.stem for page in (ROOT / "docs" / "api").glob("*.md")
    }
