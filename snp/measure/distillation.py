"""How far are a small network's outputs from those of the dense network that it came from?"""

from torch import Tensor

from snp.measure.spread import is_masked

__all__ = ["distillation_loss", "divergence"]


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Divergence of the predictions from those wanted, softened, at the scale of a cross-entropy's gradient.

    T^2 KL(softmax(wanted / T) || softmax(logits / T)), mean over rows (Hinton et al. 2015, arXiv 1503.02531, section 2:
    without T^2 gradients would shrink with the temperature).

    Args:
        logits: of the network that learns, shape [N, num_classes].
        wanted: of its teacher, same shape.
        temperature: T, above 0.

    Returns:
        A scalar in nats, 0 or more; 0 where both predict the same, and where there are no rows.
    """
    if not len(logits):
        return logits.sum()  # zero, and still part of the graph
    found, aim = (values.div(temperature).log_softmax(dim=-1) for values in (logits, wanted))
    return temperature**2 * divergence(aim, found, is_masked(wanted)) / len(logits)


def divergence(wanted: Tensor, found: Tensor, masked: Tensor) -> Tensor:
    """KL(wanted || found) of logarithms of probabilities, summed over all rows; a scalar.

    Args:
        wanted: any shape.
        found: likewise.
        masked: classes that are never wanted; the difference of two infinite logarithms is none.
    """
    # Outputs of a language model are large: they are filled once, and nothing asks for gradients of what is wanted.
    return (wanted.exp() * (wanted - found)).masked_fill(masked, 0.0).sum()
