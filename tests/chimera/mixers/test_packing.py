"""Where documents begin in packed rows."""

import pytest
import torch

from chimera.mixers.packing import document_of, packing_of, tokens_since_reset
from configs.errors import UsageError


def test_a_new_id_begins_a_document():
    packing = packing_of(torch.tensor([[7, 7, 3, 3, 3], [1, 2, 3, 4, 4]]))
    assert packing.resets_BT.tolist() == [[True, False, True, False, False], [True, True, True, True, False]]
    assert packing.max_documents == 4


def test_documents_are_numbered_and_their_tokens_counted():
    resets_BT = torch.tensor([[False, False, True, False, True]])
    assert document_of(resets_BT).tolist() == [[0, 0, 1, 1, 2]]
    age_BT = tokens_since_reset(resets_BT)
    assert age_BT[0, 2:].tolist() == [0, 1, 0]
    assert (age_BT[0, :2] > 1_000_000).all()


@pytest.mark.parametrize("ids", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(2, 0)])
def test_ids_that_are_no_rows_are_refused(ids: torch.Tensor):
    with pytest.raises(UsageError, match=r"\[rows, tokens\], not empty"):
        packing_of(ids.long())
