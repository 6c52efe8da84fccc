"""A walk through the graph of a Keras model, which says where it differs from this library's U-Net.

Two models with the same weights may connect them in different ways, or put other functions between them. So each
layer is compared with what must be before it: convolution, normalisation, ReLU; pooling of what the skip connection
passes on; up-sampling, joined with the skip connection of its own resolution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

_IDENTITIES = ("Dropout", "SpatialDropout2D", "GaussianNoise")  # layers that do nothing in prediction


class Node(NamedTuple):
    """Layer of a model."""

    name: str
    """Name, which other layers refer to."""
    kind: str
    """Class of the layer in Keras."""
    config: dict[str, Any]
    """Settings."""
    inputs: tuple[str, ...]
    """Names of the layers that it reads, in order."""

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


def nodes_of(layers: list[dict[str, Any]]) -> dict[str, Node]:
    """Return the layers of a model by name, in the model's order.

    Args:
      layers: the model's list of layers, parsed from JSON.

    Raises:
      ValueError: two layers have the same name, or one is used in several places.
    """
    nodes: dict[str, Node] = {}
    for layer in layers:
        name = layer.get("name") or layer["config"]["name"]
        if name in nodes:
            raise ValueError(f"two layers have the name {name!r}")
        calls = layer.get("inbound_nodes", [])
        if len(calls) > 1:
            raise ValueError(f"the layer {name!r} is used in {len(calls)} places")
        nodes[name] = Node(name, layer["class_name"], layer["config"], tuple(_sources(calls)))
    return nodes


def _sources(node: Any) -> list[str]:
    """Return the names of the layers that a layer reads, in order.

    Keras 2 stores them as [[['name', 0, 0, {}], ...]], Keras 3 as nested dictionaries.
    """
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            return [node["config"]["keras_history"][0]]
        return [name for value in node.values() for name in _sources(value)]
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            return [node[0]]
        return [name for value in node for name in _sources(value)]
    return []


def find_differences(nodes: dict[str, Node]) -> list[str]:
    """Return one line for each place in which a graph differs from that of the U-Net; none if it is the same.

    Args:
      nodes: all layers by name. Settings of single layers, such as the size of a pooling, are not looked at here.
    """
    graph = _Graph(nodes)
    problems = graph.structure_problems()
    if problems:
        return problems
    for node in graph.nodes.values():
        check = _CHECKS.get(node.kind)
        if check is not None and (problem := check(graph, node)):
            problems.append(problem)
    return problems or graph.skip_problems()


def joins_up_first(nodes: dict[str, Node]) -> tuple[bool, ...]:
    """Return, for each concatenation of a U-Net in the model's order, whether what was up-sampled comes first.

    This library's network has the skip connection first.
    """
    graph = _Graph(nodes)
    return tuple(
        graph.nodes[node.name].inputs != tuple(map(graph.real, node.inputs))
        for node in nodes.values()
        if node.kind == "Concatenate"
    )


def _is_up_first(node: Node, nodes: dict[str, Node]) -> bool:
    """Return whether a layer joins something that was up-sampled with a skip connection after it."""
    kinds = [nodes[name].kind if name in nodes else "" for name in node.inputs]
    return node.kind == "Concatenate" and len(kinds) == 2 and kinds[0] == "UpSampling2D" != kinds[1]


class _Graph:
    """Graph without the layers that do nothing in prediction, with skip connections first in all concatenations."""

    def __init__(self, nodes: dict[str, Node]):
        def real(name: str) -> str:
            for _ in range(len(nodes)):
                if name in nodes and nodes[name].kind in _IDENTITIES and nodes[name].inputs:
                    name = nodes[name].inputs[0]
            return name

        self.real = real
        kept = (node for node in nodes.values() if node.kind not in _IDENTITIES)
        self.nodes = {n.name: n._replace(inputs=tuple(map(real, n.inputs))) for n in kept}
        for name, node in self.nodes.items():
            if _is_up_first(node, self.nodes):
                self.nodes[name] = node._replace(inputs=node.inputs[::-1])
        self.readers: dict[str, list[Node]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.convs = [node for node in self.nodes.values() if node.kind == "Conv2D"]
        self.has_norms = any(node.kind == "BatchNormalization" for node in self.nodes.values())

    def structure_problems(self) -> list[str]:
        """Return why the layers are no chain from one input to one output."""
        problems = []
        inputs = [node for node in self.nodes.values() if node.kind == "InputLayer"]
        if len(inputs) != 1:
            problems.append(f"it has {len(inputs)} inputs, not one")
        ends = [node for node in self.nodes.values() if not self.readers[node.name]]
        if len(ends) != 1:
            problems.append(f"it has {len(ends)} outputs, not one: {', '.join(map(str, ends))}")
        seen: set[str] = set()
        for node in self.nodes.values():  # a model lists its layers in an order in which each reads earlier ones
            missing = [name for name in node.inputs if name not in seen]
            if missing or (not node.inputs and node.kind != "InputLayer"):
                problems.append(f"{node}: reads {', '.join(missing) or 'nothing'}, not layers before it")
            seen.add(node.name)
        return problems

    def input_of(self, node: Node) -> Node:
        """Return the only or last layer that a layer reads: in a concatenation, the one that was up-sampled."""
        return self.nodes[node.inputs[-1]]

    def is_activated(self, node: Node) -> bool:
        """Return whether a layer's values have gone through ReLU last."""
        return _is_relu(node) or (node.kind == "Conv2D" and node.config.get("activation") == "relu")

    def previous_conv(self, node: Node) -> Node | None:
        """Return the convolution whose values a layer reads, the skip connections left aside; None at the input."""
        node = self.input_of(node)
        while node.kind not in ("Conv2D", "InputLayer"):
            node = self.input_of(node)
        return node if node.kind == "Conv2D" else None

    def level(self, node: Node) -> int:
        """Return how many times the values of a layer were halved in size."""
        level = 0
        while node.kind != "InputLayer":
            level += {"MaxPooling2D": 1, "UpSampling2D": -1}.get(node.kind, 0)
            node = self.input_of(node)
        return level

    def skip_problems(self) -> list[str]:
        """Return which skip connections do not pass on what is pooled at their own resolution."""
        problems, passed_on = [], set()
        for node in self.nodes.values():
            if node.kind != "Concatenate":
                continue
            skip, up = (self.nodes[name] for name in node.inputs)
            pooled = [reader for reader in self.readers[skip.name] if reader.kind == "MaxPooling2D"]
            if not pooled or self.level(skip) != self.level(up):
                problems.append(f"{node}: joins {skip}, not what is pooled at the same resolution")
            passed_on.add(skip.name)
        for node in self.nodes.values():
            if node.kind == "MaxPooling2D" and node.inputs[0] not in passed_on:
                problems.append(f"{node}: no skip connection passes on what it pools")
        return problems


def _is_relu(node: Node) -> bool:
    """Return whether a layer is an ordinary ReLU."""
    if node.kind == "Activation":
        return node.config.get("activation") == "relu"
    wanted = {"max_value": (None,), "negative_slope": (0, 0.0, [0.0], None), "threshold": (0, 0.0, None)}
    return node.kind == "ReLU" and all(node.config.get(name) in values for name, values in wanted.items())


def _check_conv(graph: _Graph, node: Node) -> str:
    before = graph.input_of(node)
    fine = before.kind in ("InputLayer", "MaxPooling2D", "Concatenate") or graph.is_activated(before)
    if not fine:
        return f"{node}: reads {before}, not the input, a pooling, a concatenation or a ReLU"
    place = graph.convs.index(node)
    if graph.previous_conv(node) is not (graph.convs[place - 1] if place else None):
        return f"{node}: does not read the convolution before it"
    readers, activation = graph.readers[node.name], node.config.get("activation", "linear")
    if place == len(graph.convs) - 1:
        return ""  # its activation is looked at with the output
    if graph.has_norms:
        if activation != "linear":
            return f"{node}: applies {activation} before the normalisation"
        return (
            "" if [r.kind for r in readers] == ["BatchNormalization"] else f"{node}: is not followed by normalisation"
        )
    if activation == "relu":
        return ""
    if activation == "linear" and len(readers) == 1 and _is_relu(readers[0]):
        return ""
    return f"{node}: is followed by {activation if activation != 'linear' else 'no activation'}, not ReLU"


def _check_norm(graph: _Graph, node: Node) -> str:
    if graph.input_of(node).kind != "Conv2D":
        return f"{node}: normalises {graph.input_of(node)}, not a convolution"
    readers = graph.readers[node.name]
    return "" if len(readers) == 1 and _is_relu(readers[0]) else f"{node}: is not followed by an ordinary ReLU"


def _check_activation(graph: _Graph, node: Node) -> str:
    before = graph.input_of(node)
    if before is graph.convs[-1] and not graph.readers[node.name]:
        return ""
    if not _is_relu(node):
        return f"{node}: is not an ordinary ReLU"
    fine = before.kind == ("BatchNormalization" if graph.has_norms else "Conv2D")
    return "" if fine else f"{node}: reads {before}"


def _check_resampling(graph: _Graph, node: Node) -> str:
    before = graph.input_of(node)
    return "" if graph.is_activated(before) else f"{node}: reads {before}, not a ReLU"


def _check_join(graph: _Graph, node: Node) -> str:
    kinds = [graph.nodes[name].kind for name in node.inputs]
    if len(kinds) == 2 and kinds[1] == "UpSampling2D" and graph.is_activated(graph.nodes[node.inputs[0]]):
        return ""
    return f"{node}: joins {' and '.join(kinds)}, not a skip connection and then UpSampling2D"


_CHECKS: dict[str, Callable[[_Graph, Node], str]] = {
    "Conv2D": _check_conv,
    "BatchNormalization": _check_norm,
    "Activation": _check_activation,
    "ReLU": _check_activation,
    "MaxPooling2D": _check_resampling,
    "UpSampling2D": _check_resampling,
    "Concatenate": _check_join,
}
