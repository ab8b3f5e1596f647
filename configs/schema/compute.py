"""Section `P3_ternary_compute`: switches of training and packing, between paragraphs of prose."""

from dataclasses import field
from typing import Annotated, ClassVar

from configs.schema.keys import Form, Key
from configs.schema.section import section

STATUS = Form(r"(IMPLEMENTED|PLANNED|OFF)\b.*", "IMPLEMENTED, PLANNED or OFF, then any remark")


@section
class Switch:
    """One technique that nothing takes up yet. It is on when its status begins with IMPLEMENTED."""

    NOTES: ClassVar[frozenset[str]] = frozenset(
        {"description", "benefit", "limitation", "implementation", "note"}
    )

    status: Annotated[
        str, Key("IMPLEMENTED, PLANNED or OFF, with any remark after it", "planned", form=STATUS)
    ] = "OFF"

    @property
    def on(self) -> bool:
        """Whether the technique is asked for."""
        return self.status.startswith("IMPLEMENTED")


@section
class WorkingSwitch(Switch):
    """One technique that `chimera train` or `chimera finetune` takes up.

    It is on when its status begins with IMPLEMENTED.
    """

    status: Annotated[
        str, Key("IMPLEMENTED, PLANNED or OFF, with any remark after it", "works", form=STATUS)
    ] = "OFF"


@section
class Optimizations:
    """Techniques of training and packing."""

    mezo_optimizer: Annotated[
        Switch, Key("Fine-tuning by forward passes alone: by its own command", "planned")
    ] = field(default_factory=Switch)
    bf16_autocast: Annotated[WorkingSwitch, Key("Products in bfloat16 while training", "works")] = field(
        default_factory=WorkingSwitch
    )
    torch_compile: Annotated[WorkingSwitch, Key("Compile each block", "works")] = field(
        default_factory=WorkingSwitch
    )
    parallel_mlstm: Annotated[Switch, Key("The mLSTM by chunks while training: always", "planned")] = field(
        default_factory=Switch
    )
    parallel_titans_mac: Annotated[Switch, Key("Titans by a scan while training: always", "planned")] = field(
        default_factory=Switch
    )
    sort_based_moe: Annotated[Switch, Key("Tokens sorted by expert: always", "planned")] = field(
        default_factory=Switch
    )
    gradient_checkpointing: Annotated[
        WorkingSwitch, Key("Recompute blocks instead of keeping them", "works")
    ] = field(default_factory=WorkingSwitch)
    cpu_thread_tuning: Annotated[WorkingSwitch, Key("As many threads as cores while training", "works")] = (
        field(default_factory=WorkingSwitch)
    )
    ipex_integration: Annotated[Switch, Key("Intel's extension where it works", "planned")] = field(
        default_factory=Switch
    )
    ternary_qat_ste: Annotated[
        Switch, Key("Ternary weights while training: always, unless the command asks otherwise", "planned")
    ] = field(default_factory=Switch)
    two_bit_packed_weights: Annotated[
        Switch, Key("Weights packed four to a byte: always, in packed files", "planned")
    ] = field(default_factory=Switch)
    zero_multiply_forward: Annotated[
        Switch, Key("Products from unpacked codes while training", "planned")
    ] = field(default_factory=Switch)
    ternary_mezo_sparse: Annotated[
        WorkingSwitch, Key("MeZO leaves zero codes alone, but every eighth step", "works")
    ] = field(default_factory=WorkingSwitch)
    sparse_grad_w_masking: Annotated[Switch, Key("No gradient for weights near zero", "planned")] = field(
        default_factory=Switch
    )


@section
class TernaryCompute:
    """Switches between paragraphs of prose."""

    NOTES: ClassVar[frozenset[str]] = frozenset({"thesis", "not_implemented", "realistic_performance"})

    implemented_optimizations: Annotated[Optimizations, Key("The switches", "works")] = field(
        default_factory=Optimizations
    )
