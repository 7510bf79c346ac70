"""The engine that runs the network in ONNX Runtime on the CPU, from a compiled model. No torch.

The first use of a model compiles it: `onnx_graph` writes the graph, ONNX Runtime optimises it for
this CPU and saves it, `onnx_cache` keeps it. Later uses map that file into memory and run.

Measured on 2 cores with AVX-512 and resnest50d, ONNX Runtime 1.32 (session, ms; peak of the whole
process, MB): the plain graph optimised on every start 290 ms, 313 MB; the optimised one as .onnx
160, 178; as .ort read into memory 200, 272; mapped into memory 25, 181; the same without packing
weights once more, which makes no run quicker, 12, 173: the last is used.

Photos of the model's own size get a model that is compiled for it, photos of any other size one for
all sizes. Where the runtime knows all shapes, it fuses the shortcut and the ReLU into convolutions:
resnest50d takes 0.97 of the time for one photo and 0.94 in batches of 8 (one core). A network that
`resnest export` wrote is compiled from its own file in the same way, to the same bits. Weights of
int8 have to be packed (14t on one core: 0.6 ms for one photo, 7.3 without).

Threads: as many as there are cores (1, 2 and 3 on 2 cores: 53, 30 and 38 ms for one photo). They do
not spin while they wait: that gains nothing and takes the cores from the threads that decode.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnest_cli.cpu import cpu_features, usable_cores
from resnest_cli.errors import CheckpointError, EngineError, ResnestError, UsageError
from resnest_cli.files import reading
from resnest_cli.inference import onnx_cache
from resnest_cli.inference.engine import Fingerprint
from resnest_cli.model.onnx_file import check_structure, needed
from resnest_cli.progress import Notify, ignore
from resnest_cli.text import one_line

# Official builds report their use to Microsoft over the network (Privacy.md in the package) unless
# this is set before they are imported. Nobody asked for that here; who wants it sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

if TYPE_CHECKING:
    from resnest_cli.inference.onnx_graph import Graph
    from resnest_cli.model.loading import Model

Float32 = NDArray[np.float32]

EXPORTED = ("features", "logits")  # what an exported network gives

_CPU = ["CPUExecutionProvider"]
_FATAL_ONLY = 4  # of the runtime's log levels
_said: set[str] = set()


@contextmanager
def runtime_errors(network: object = "the network") -> Iterator[None]:
    """Raises EngineError for whatever the runtime refuses, in a dozen kinds of its own."""
    try:
        yield
    except ResnestError:
        raise
    except Exception as error:
        reason = one_line(str(error)).rstrip(".")
        raise EngineError(f"ONNX Runtime cannot run {network}: {reason}.") from error


class OnnxEngine:
    """The network in ONNX Runtime, float32, on the CPU."""

    name = "onnx"
    device = "cpu"

    def __init__(
        self, session: ort.InferenceSession, keep: Any = None, model: "Model | None" = None
    ) -> None:
        self._session = session
        self._keep = keep  # what the session's memory belongs to
        self._model = model  # where sessions for other outputs come from
        self._names = {node.name for node in session.get_outputs()}
        # Numbers where they are fixed, words or None where they are free.
        batch, _, side, _ = session.get_inputs()[0].shape
        self._batch = batch if isinstance(batch, int) else None
        self.side = side if isinstance(side, int) else None  # of the photos; None for any
        self._others: dict[tuple[str, bool], OnnxEngine] = {}

    def logits(self, batch: Float32) -> Float32:
        """Preprocessed photos (N, 3, H, W) -> logits (N, classes), float32."""
        return self.output(batch, "logits")

    def output(self, batch: Float32, name: str) -> Float32:
        """Preprocessed photos (N, 3, H, W) -> one output of `onnx_graph.OUTPUTS`, float32.

        Of several, joined by "+", each row has them one after the other.

        Other outputs and other sizes than the compiled model has get one of their own, once.
        """
        fits = self.side is None or batch.shape[2:] == (self.side, self.side)
        engine, names = self, name.split("+")
        if self._model is not None and not (fits and self._names.issuperset(names)):
            engine = self._other(self._model, name, any_size=not fits)
        photos = np.ascontiguousarray(batch, np.float32)
        # A network for batches of one size gets its photos in such batches, the last filled up.
        size = len(photos) if engine._batch is None else engine._batch
        parts: list[Float32] = []
        for start in range(0, len(photos), max(1, size)):
            part = photos[start : start + size]
            if missing := size - len(part):
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)])
            with runtime_errors():
                found = engine._session.run(names, {"photos": part})
            parts.append(found[0] if len(found) == 1 else np.concatenate(found, axis=1))
        if len(parts) == 1 and len(photos) == size:
            return parts[0]
        return np.concatenate(parts)[: len(photos)]

    def _other(self, model: "Model", name: str, *, any_size: bool) -> "OnnxEngine":
        """The engine for an output, or for sizes, that this one was not compiled for."""
        key = name, any_size
        if key not in self._others:
            self._others[key] = create(model, name, any_size=any_size)
        other = self._others[key]
        if any_size and other.side is not None:
            side = other.side
            raise EngineError(f"{model.path} takes photos of {side} x {side} pixels only.")
        return other

    def fingerprint(self, batch_size: int) -> Fingerprint:
        """What decides the bits of its answers, beside the model and the photos."""
        return Fingerprint(
            engine=self.name,
            version=f"{ort.__version__}+graph{onnx_cache.GRAPH_VERSION}",
            precision="float32",
            device=cpu_features(),
            batch_size=batch_size,
        )


def create(
    model: "Model", output: str = "logits", *, any_size: bool = False, notify: Notify = ignore
) -> OnnxEngine:
    """The engine for this model, from its compiled form; compiles it where there is none.

    It is made for photos of the size of `model.preprocessing`, or for `any_size`. A compiled model
    that cannot be loaded is built anew; one that cannot be stored serves from memory, which is
    still quicker than torch, and `notify` is given the reason, once.

    Raises:
        EngineError: the graph cannot be built or run here.
        CheckpointError: the weights cannot be used.
        UsageError: an exported network lacks an output.
    """
    if model.exported and not set(output.split("+")) <= set(EXPORTED):
        raise UsageError(
            f"{model.name} is an exported network, which gives {' and '.join(EXPORTED)} only. "
            "Give the checkpoint that it was exported from."
        )
    compilation = _Compilation(model, output, any_size=any_size)
    for rebuild in (False, True):
        if not onnx_cache.obtain(compilation.entry, compilation.write, rebuild=rebuild):
            if (refusal := onnx_cache.refusal()) not in _said:
                _said.add(refusal)
                notify(refusal)
            break
        try:
            return OnnxEngine(compilation.opened(compilation.entry.path), model=model)
        except Exception:
            continue
    return compilation.in_memory()


def open_exported(data: bytes, precision: str = "float32") -> OnnxEngine:
    """The engine for the bytes of an .onnx file that `resnest export` makes."""
    with runtime_errors():
        return OnnxEngine(
            ort.InferenceSession(data, session_options(packed=precision == "int8"), _CPU)
        )


def compile_model(model: "Model") -> bool:
    """Compiles a model unless that is done already; whether its compiled form is stored now."""
    compilation = _Compilation(model, "logits" if model.num_classes else "features")
    return onnx_cache.obtain(compilation.entry, compilation.write)


class _Compilation:
    """Builds the graph at most once, to be stored or to serve from memory."""

    def __init__(self, model: "Model", output: str, *, any_size: bool = False) -> None:
        self._model = model
        self._size = None if any_size else model.preprocessing.size
        self._outputs = EXPORTED if model.exported else tuple(output.split("+"))
        self._packed = model.exported == "int8"
        self._graph: Graph | None = None
        with reading(model.path, EngineError):
            self.entry = onnx_cache.entry_for(model, self._outputs, ort.__version__, self._size)

    def write(self, path: Path) -> None:
        """Writes the compiled model, and makes sure that it can be loaded."""
        graph = None if self._model.exported else self._built()
        if graph is None:
            self._optimised_file(path)
        # A file that was replaced meanwhile must not be stored under the old one's key.
        if self._model.sha256() != self.entry.origin["weights"]:
            raise OSError(f"{self._model.path} has changed meanwhile")
        if graph is not None:
            optimised(graph, path, self._size)
        self.opened(path)

    def opened(self, path: Path) -> ort.InferenceSession:
        """A session on the compiled model, whose file stays mapped into memory."""
        options = session_options(packed=self._packed)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is done
        options.add_session_config_entry("session.load_model_format", "ORT")
        options.add_session_config_entry("session.use_memory_mapped_ort_model", "1")
        options.add_session_config_entry("session.use_ort_model_bytes_for_initializers", "1")
        return ort.InferenceSession(str(path), options, _CPU)

    def in_memory(self) -> OnnxEngine:
        """The engine without a stored form."""
        with runtime_errors():
            if self._model.exported:
                return OnnxEngine(self._optimised_file(), model=self._model)
            return OnnxEngine(*optimised(self._built(), size=self._size), self._model)

    def _built(self) -> "Graph":
        if self._graph is None:
            with needed("onnx"):
                from resnest_cli.inference.onnx_graph import build_graph
            model = self._model
            try:
                self._graph = build_graph(model.variant, model.arrays(), self._outputs)
            except ValueError:  # checked in full, the error says what does not fit
                tensors = model.arrays(checked=True)
                self._graph = build_graph(model.variant, tensors, self._outputs)
        return self._graph

    def _optimised_file(self, path: Path | None = None) -> ort.InferenceSession:
        """As `optimised`, for an exported network."""
        model = self._model
        options = session_options(packed=self._packed, size=self._size, save=path)
        source: str | bytes = str(model.path)  # as files with its tensors lie beside it
        if not model.trusted:
            source = model.path.read_bytes()
            check_structure(model.path, source)
        session = ort.InferenceSession(source, options, _CPU)
        inputs = [(node.name, node.type, node.shape[1:2]) for node in session.get_inputs()]
        outputs = {node.name: node.shape[1:] for node in session.get_outputs()}
        if (
            inputs != [("photos", "tensor(float)", [model.in_channels])]
            or outputs.get("logits") != [model.num_classes]
            or not set(EXPORTED) <= set(outputs)
        ):
            raise CheckpointError(
                f"{model.path} was changed since `resnest export` wrote it: it does not take "
                f"float32 photos of {model.in_channels} channels and give {' and '.join(EXPORTED)} "
                f"of {model.num_classes} classes. Export it again."
            )
        height, width = session.get_inputs()[0].shape[2:]
        if height != width and (isinstance(height, int) or isinstance(width, int)):
            raise CheckpointError(
                f"{model.path} takes photos of {height} x {width} pixels; they must be square."
            )
        return session


def session_options(
    *, packed: bool = False, size: int | None = None, save: Path | None = None
) -> ort.SessionOptions:
    """For photos of one size, or any; the optimised graph is saved where there is a path."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for side in ("height", "width") if size is not None else ():
        options.add_free_dimension_override_by_name(side, size)
    if save is not None:
        options.optimized_model_filepath = str(save)
        options.add_session_config_entry("session.save_model_format", "ORT")
    return options


def optimised(
    graph: "Graph",
    path: Path | None = None,
    size: int | None = None,
    *,
    profile: Path | None = None,
) -> tuple[ort.InferenceSession, Any]:
    """A session that optimises the graph, and what the session's memory belongs to.

    With `profile` it notes what each node takes: `end_profiling` writes that into a file whose name
    begins so.
    """
    options = session_options(size=size, save=path)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    # Handed over as they are: inside the graph they would be copied three times, for a second.
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.weights.values()]
    options.add_external_initializers(list(graph.weights), values)
    session = ort.InferenceSession(graph.model.SerializeToString(), options, _CPU)
    return session, (values, graph.weights)
