"""`ModelConfig`: one config.json, every key of it.

Notable choices:
- a value that was not named is filled in by the rules of `configs.derive` before the dataclass is built, so a
  `ModelConfig` is always explicit;
- contradictions between sections are found by `configs.schema.checks`, all at once;
- what is computed from a config lives in `configs.inventory` (tensors) and `configs.accounting` (bytes).
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, ClassVar, Literal

from configs.schema.backbone import Backbone
from configs.schema.claims import ContextTier, MemoryBudget, StatedParams
from configs.schema.compute import TernaryCompute
from configs.schema.keys import Form, Key
from configs.schema.looping import Looping
from configs.schema.memory import BraidState, SelfEvolution, SemanticMemory
from configs.schema.mixers import Attention, Efla, GatedDeltaNet, Titans, Xlstm
from configs.schema.multimodal import ByteLevel, Multimodal
from configs.schema.quantization import Quantization
from configs.schema.section import section
from configs.schema.serving import Deployment, Diagnostics, Files, Generation, Mode, Safety
from configs.schema.spans import DebtLedger, EntropyValve, Grammar, SpanInference, SpanKnot
from configs.schema.training import Chronos, Training

SCHEMA_VERSION = "5.1.2"
VERSION = Form(r"[0-9]{1,4}(\.[0-9]{1,4}){1,2}", "two or three numbers with dots, as in 5.1.2")

TorchDtype = Literal["bfloat16", "float32", "float16"]


@section
class ModelConfig:
    """What a model is."""

    NOTES: ClassVar[frozenset[str]] = frozenset(
        {
            "add_cross_attention",
            "attn_implementation",
            "bos_token_id",
            "chunk_size_feed_forward",
            "cross_attention_hidden_size",
            "decoder_start_token_id",
            "dtype",
            "eos_token_id",
            "finetuning_task",
            "id2label",
            "is_decoder",
            "is_encoder_decoder",
            "label2id",
            "output_attentions",
            "output_hidden_states",
            "pad_token_id",
            "prefix",
            "problem_type",
            "pruned_heads",
            "return_dict",
            "sep_token_id",
            "task_specific_params",
            "tf_legacy_loss",
            "tie_encoder_decoder",
            "tokenizer_class",
            "torchscript",
            "use_bfloat16",
        }
    )
    """Keys that `transformers` writes into any config.json; they have no meaning here."""

    name_or_path: Annotated[str, Key("Name of the model", "works", json="_name_or_path")] = ""
    v: Annotated[
        str,
        Key("Version of the schema; older files are migrated", "works", form=VERSION, json="_v"),
    ] = SCHEMA_VERSION
    architectures: Annotated[tuple[str, ...], Key("Class of the model in `transformers`", "carried")] = (
        "Chimera51ForCausalLM",
    )
    auto_map: Annotated[Mapping[str, str], Key("Where `transformers` finds that class", "carried")] = field(
        default_factory=lambda: dict[str, str]()
    )
    model_type: Annotated[Literal["chimera51"], Key("Family of the model in `transformers`", "carried")] = (
        "chimera51"
    )
    token_ids: Annotated[tuple[int, int], Key("Ids of the end of a text and of padding", "works", low=0)] = (
        1,
        0,
    )
    hidden_size: Annotated[
        int, Key("Width of the residual stream", "works", unit="channels", low=16, high=65536)
    ]
    intermediate_size: Annotated[
        int, Key("Inner width of a dense feed-forward layer", "works", unit="channels", low=16, high=2**20)
    ]
    num_hidden_layers: Annotated[
        int, Key("Layers, each counted once", "works", unit="layers", low=1, high=1024)
    ]
    num_heads: Annotated[int, Key("Heads of a mixer", "works", unit="heads", low=1, high=4096)]
    head_dim: Annotated[int, Key("Channels a head", "works", unit="channels", low=8, high=256)]
    hidden_act: Annotated[Literal["swiglu"], Key("Kind of feed-forward layer", "carried")] = "swiglu"
    initializer_range: Annotated[float, Key("Deviation of fresh projections", "works", low=0.0, high=1.0)]
    rms_norm_eps: Annotated[float, Key("Added to the mean square in a norm", "works", low=0.0, high=0.1)] = (
        1e-6
    )
    rms_norm_before_every_linear: Annotated[
        Literal[True],
        Key("Every ternary projection reads a normed input; nothing else can be trained here", "carried"),
    ] = True
    vocab_size: Annotated[int, Key("Tokens of the vocabulary", "works", unit="tokens", low=2, high=2**24)]
    max_position_embeddings: Annotated[
        int, Key("Longest row that training takes", "works", unit="tokens", low=1)
    ] = 4_194_304
    tie_word_embeddings: Annotated[Literal[True], Key("One matrix for embedding and head", "carried")] = True
    torch_dtype: Annotated[TorchDtype, Key("Type of products while training", "works")] = "bfloat16"
    use_cache: Annotated[
        bool, Key("Asks for a growing cache; there is none, and state is always kept", "carried")
    ] = False
    transformers_version: Annotated[str, Key("Version of `transformers` that wrote the file", "carried")] = ""
    quantization: Annotated[Quantization, Key("Integers", "works")] = field(default_factory=Quantization)
    backbone: Annotated[Backbone, Key("Layers", "works")] = field(default_factory=Backbone)
    gated_deltanet: Annotated[GatedDeltaNet, Key("Layer GD", "works")] = field(default_factory=GatedDeltaNet)
    efla: Annotated[Efla, Key("Exact flow", "planned")] = field(default_factory=Efla)
    xlstm: Annotated[Xlstm, Key("Layer XM", "works")] = field(default_factory=Xlstm)
    titans: Annotated[Titans, Key("Layer TM", "works")] = field(default_factory=Titans)
    attention: Annotated[Attention, Key("Layers of the transformer systems", "works")] = field(
        default_factory=Attention
    )
    looping: Annotated[Looping, Key("Rounds", "works")] = field(default_factory=Looping)
    span_inference: Annotated[SpanInference, Key("Spans", "planned")] = field(default_factory=SpanInference)
    tsp_knot: Annotated[SpanKnot, Key("Layer SK", "planned")] = field(default_factory=SpanKnot)
    grammar: Annotated[Grammar, Key("Grammar", "planned")] = field(default_factory=Grammar)
    semantic_memory: Annotated[SemanticMemory, Key("Memory", "planned")] = field(
        default_factory=SemanticMemory
    )
    entropy_valve: Annotated[EntropyValve, Key("Valve", "planned")] = field(default_factory=EntropyValve)
    debt_ledger: Annotated[DebtLedger, Key("Obligations", "planned")] = field(default_factory=DebtLedger)
    self_evolution: Annotated[SelfEvolution, Key("Learning in use", "planned")] = field(
        default_factory=SelfEvolution
    )
    braid_state: Annotated[BraidState, Key("A stream's state", "works")] = field(default_factory=BraidState)
    modes: Annotated[Mapping[str, Mode], Key("Speed against care", "works")] = field(
        default_factory=lambda: dict[str, Mode]()
    )
    generation: Annotated[Generation, Key("Sampling", "planned")] = field(default_factory=Generation)
    training: Annotated[Training, Key("Learning", "works")] = field(default_factory=Training)
    chronos: Annotated[Chronos, Key("Losses of the experts", "works")] = field(default_factory=Chronos)
    byte_level: Annotated[ByteLevel, Key("Bytes", "planned")] = field(default_factory=ByteLevel)
    memory_budget_mb: Annotated[MemoryBudget | None, Key("Stated memory by parts", "works")] = None
    deployment: Annotated[Deployment, Key("Streams", "works")] = field(default_factory=Deployment)
    diagnostics: Annotated[Diagnostics, Key("Reports", "works")] = field(default_factory=Diagnostics)
    context_tiers: Annotated[tuple[ContextTier, ...], Key("Stated stores of the past", "works")] = ()
    multimodal: Annotated[Multimodal, Key("Pictures and sound", "planned")] = field(
        default_factory=Multimodal
    )
    safety: Annotated[Safety, Key("Guards", "planned")] = field(default_factory=Safety)
    files: Annotated[Files, Key("Files", "works")] = field(default_factory=Files)
    params: Annotated[StatedParams | None, Key("Stated parameters", "works")] = None
    ternary_compute: Annotated[
        TernaryCompute, Key("Switches of training and packing", "works", json="P3_ternary_compute")
    ] = field(default_factory=TernaryCompute)

    @property
    def layer_aliases(self) -> tuple[str, ...]:
        """The alias of every layer, by index: the pattern, repeated."""
        pattern = self.backbone.layer_pattern.split()
        return tuple(pattern[i % len(pattern)] for i in range(self.num_hidden_layers))

    @property
    def inner_width(self) -> int:
        """Width inside a mixer: heads times head size."""
        return self.num_heads * self.head_dim

    @property
    def rounds_most(self) -> int:
        """The most rounds that any token can take."""
        return self.looping.loop_range[1] if self.looping.enabled else 1

    @property
    def rounds_default(self) -> int:
        """The rounds that a token takes unless told otherwise."""
        return self.looping.loop_default if self.looping.enabled else 1

    @property
    def exit_threshold_default(self) -> float:
        """The change below which a token leaves the loop unless told otherwise; 0 is never."""
        return self.looping.adaptive_exit_threshold if self.looping.enabled else 0.0
