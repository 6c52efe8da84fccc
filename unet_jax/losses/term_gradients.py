"""Gradients of each loss term and class at the parameters: their norms, and where they conflict."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import PyTree

_TINY = 1e-30


class TermGradients(NamedTuple):
    """Inner products of gradients at the parameters: one gradient for each of t terms and k classes."""

    gram: Float[Array, "t k t k"]
    """`gram[a, i, b, j]` is the inner product of two gradients: that of term a through the logits of class i, and that
    of term b through the logits of class j. Float32."""

    def norms(self) -> Float[Array, "t k"]:
        """Return the norm of each term's gradient through each class."""
        return jnp.sqrt(jnp.einsum("titi->ti", self.gram))

    def term_norms(self) -> Float[Array, " t"]:
        """Return the norm of each term's gradient."""
        return _norms(self._terms())

    def class_norms(self) -> Float[Array, " k"]:
        """Return the norm of the whole loss's gradient through each class."""
        return _norms(self._classes())

    def term_cosines(self) -> Float[Array, "t t"]:
        """Return the cosine between the gradients of each two terms.

        It lies in [-1, 1]: -1 where they point in opposite directions, 0 where they are orthogonal or one of them is 0.
        """
        return _cosines(self._terms())

    def class_cosines(self) -> Float[Array, "k k"]:
        """Return the cosine between the whole loss's gradients through each two classes, as in `term_cosines`."""
        return _cosines(self._classes())

    def _terms(self) -> Float[Array, "t t"]:
        """Return the inner products of the terms' gradients, summed over classes."""
        return jnp.einsum("tiuj->tu", self.gram)

    def _classes(self) -> Float[Array, "k k"]:
        """Return the inner products of the classes' gradients, summed over terms."""
        return jnp.einsum("tiuj->ij", self.gram)


def term_gradients(
    logits_of: Callable[[PyTree], Float[Array, "b h w k"]],
    terms: Mapping[str, Callable[[Float[Array, "b h w k"]], Float[Array, ""]]],
    params: PyTree,
    *,
    num_subpixels: int = 1,
) -> TermGradients:
    """Compute the gradient of each loss term through each class, and return the inner products of all of them.

    The gradient of a term through class k is its gradient at the parameters with the logits of all other classes held
    constant. The sum over classes is the term's gradient.

    Backpropagation is linear in the gradient at the logits, so one forward pass serves all gradients, and each pair of
    term and class costs one backward pass. The backward passes run one after another, so that the activations are kept
    only once.

    Args:
      logits_of: the network on a fixed batch, as a function from its parameters to logits `[b h w k]`.
      terms: each term as a function from logits to a scalar, by name, including its weight in the sum. The result has
        the same order.
      params: parameters at which the gradients are taken.
      num_subpixels: number of pixels in a block if logits are packed; 1 = not packed.

    Returns:
      The inner products, with methods for norms and cosines.

    Reference:
      A negative cosine is a conflict as in Yu et al., Gradient surgery for multi-task learning, 2020
      (arXiv:2001.06782).

    Example:
      >>> import jax.numpy as jnp
      >>> from unet_jax.losses import term_gradients
      >>> terms = {"up": lambda x: 3.0 * jnp.sum(x[..., 0]), "down": lambda x: -4.0 * jnp.sum(x[..., 0])}
      >>> network = lambda params: jnp.broadcast_to(params, (1, 1, 1, 2))  # one pixel, two classes
      >>> gradients = term_gradients(network, terms, jnp.array([1.0, 2.0]))
      >>> print(gradients.term_norms(), gradients.class_norms())
      [3. 4.] [1. 0.]
      >>> print(gradients.term_cosines()[0, 1])
      -1.0
    """
    logits, pullback = jax.vjp(logits_of, params)
    num_classes = logits.shape[-1] // num_subpixels
    at_logits = jnp.stack([jax.grad(term)(logits) for term in terms.values()])
    of_class = jnp.tile(jnp.eye(num_classes, dtype=logits.dtype), (1, num_subpixels))
    by_class = at_logits[:, None] * of_class[None, :, None, None, None, :]
    grads = jax.lax.map(lambda cotangent: pullback(cotangent)[0], by_class.reshape(-1, *logits.shape))
    flat = [leaf.reshape(leaf.shape[0], -1).astype(jnp.float32) for leaf in jax.tree.leaves(grads)]
    gram = sum(jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST) for x in flat)
    return TermGradients(jnp.reshape(gram, (len(terms), num_classes) * 2))


def _norms(gram: Float[Array, "n n"]) -> Float[Array, " n"]:
    """Return the norms of vectors with these inner products."""
    return jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))


def _cosines(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Return the cosines between vectors with these inner products; 0 where one of them is 0."""
    norms = _norms(gram)
    return gram / jnp.maximum(jnp.outer(norms, norms), _TINY)
