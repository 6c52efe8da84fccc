"""How the terms of a loss and the classes pull at the parameters: norms of their gradients, and where they conflict."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unet_jax._types import PyTree

_TINY = 1e-30


class TermGradients(NamedTuple):
    """Inner products of the parameters' gradients, one gradient for each term and class."""

    gram: Float[Array, "t k t k"]
    """gram[a, i, b, j]: of term a through the logits of class i, and term b through those of class j."""

    def norms(self) -> Float[Array, "t k"]:
        """Of each term's gradient through each class."""
        return jnp.sqrt(jnp.einsum("titi->ti", self.gram))

    def term_norms(self) -> Float[Array, " t"]:
        """Of each term's gradient."""
        return _norms(self._terms())

    def class_norms(self) -> Float[Array, " k"]:
        """Of the whole loss's gradient through each class."""
        return _norms(self._classes())

    def term_cosines(self) -> Float[Array, "t t"]:
        """Between terms: -1 where they pull in opposite directions; 0 where one of them does not pull at all."""
        return _cosines(self._terms())

    def class_cosines(self) -> Float[Array, "k k"]:
        """Between classes."""
        return _cosines(self._classes())

    def _terms(self) -> Float[Array, "t t"]:
        return jnp.einsum("tiuj->tu", self.gram)

    def _classes(self) -> Float[Array, "k k"]:
        return jnp.einsum("tiuj->ij", self.gram)


def term_gradients(
    logits_of: Callable[[PyTree], Float[Array, "b h w k"]],
    terms: Mapping[str, Callable[[Float[Array, "b h w k"]], Float[Array, ""]]],
    params: PyTree,
    *,
    num_subpixels: int = 1,
) -> TermGradients:
    """The gradients of a loss's terms at `params`, each class's part of them by itself.

    A gradient through class k is what the parameters would get if the term saw the logits of that class only; the sum
    over classes is the term's gradient. The network's derivative is linear in that of the logits, so one forward pass
    serves all, and each term and class costs one backward pass; they are computed one after the other, so that
    activations are kept once. Conflicts between losses as in Yu et al., Gradient surgery for multi-task learning, 2020
    (arXiv:2001.06782).

    Args:
      logits_of: the network as a function of its parameters, at a batch.
      terms: losses of the logits as they enter the sum, that is with their weights; in this order in the result.
      params: where.
      num_subpixels: pixels in a block, where logits are packed.
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
    return jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0.0))


def _cosines(gram: Float[Array, "n n"]) -> Float[Array, "n n"]:
    norms = _norms(gram)
    return gram / jnp.maximum(jnp.outer(norms, norms), _TINY)
