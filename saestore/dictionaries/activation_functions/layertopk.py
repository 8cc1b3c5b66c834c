"""LayerTopK and BatchLayerTopK: TopK and BatchTopK over the features of all layers together.

    layertopk         S = the k largest of relu(g) of a row, over layers × features
    batchlayertopk    S = the ⌊k N⌋ largest of relu(g), over N rows × layers × features

Features of all layers stand in one axis, so that they are what they are called after, with k counting
over the whole axis; `by_layer` has those that count in each layer. Which layers a row uses is then
learnt, and a layer may go without.

Source: llamascopium (lm-saes) 2.0, whose docstring of batchlayertopk claims L times as many.
"""

from saestore.dictionaries.activation_functions.batchtopk import BatchTopK
from saestore.dictionaries.activation_functions.topk import TopK


class LayerTopK(TopK):
    """Keep the k largest of all layers together."""


class BatchLayerTopK(BatchTopK):
    """Keep the k largest a row on average, of all layers together."""
