"""A packed model that is about to be written in another form: it is sound, and all of it goes along."""

from configs.errors import AdapterError
from runtime.adapting.state import STATE
from runtime.building.tensors import Tensors
from runtime.model_folder import PackedModel
from runtime.verified import check_whole


def whole_tensors(model: PackedModel) -> Tensors:
    """The tensors of a model, once its files are known to be sound: damage must not get a clean copy.

    Experts in clusters carry digests of their own, which are compared as each is read.
    """
    for adapter in model.adapters:
        if adapter.header.method == STATE:
            raise AdapterError(
                f"{adapter.path} is of what a stream begins with, which no other program's file holds",
                hint="Name the packed file itself, without its folder's adapters, or take that one out.",
            )
    tensors = Tensors(model)
    try:
        check_whole(tensors.files)
    except BaseException:
        tensors.close()
        raise
    return tensors
