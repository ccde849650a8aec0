"""Models of each domain at their first loss, of random sizes: `(module, loss)`, as examples to tell domains by."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from optsearch.adaptation.example_data import Batch, Draw, images, spectrograms, table, tokens
from optsearch.adaptation.example_problems import (
    Made,
    Maker,
    bowl,
    coordinate_network,
    factorization,
    graph_network,
    hidden_widths,
    layers,
    pinn,
    sparse_table,
)


class Residual(nn.Module):
    """As in tabular ResNets (Gorishniy et al. 2021, arxiv.org/abs/2106.11959)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.body(inputs)


def _judged(draw: Draw, batch: Batch, head: Callable[[int], nn.Module], hidden: Tensor) -> Made:
    """A head for the batch's classes, or for one number, over what comes before it; and its loss."""
    if draw.choice(True, True, False):
        last = head(batch.num_classes)
        return last, functional.cross_entropy(last(hidden), batch.labels)
    last = head(1)
    target = batch.labels.float()
    return last, functional.mse_loss(last(hidden).squeeze(1), (target - target.mean()) / target.std().clamp(min=1e-3))


def _with_head(draw: Draw, batch: Batch, body: nn.Module, hidden: Tensor) -> Made:
    head, loss = _judged(draw, batch, lambda count: nn.Linear(hidden.shape[1], count), hidden)
    return nn.Sequential(body, head), loss


def _flat_mlp(draw: Draw, batch: Batch) -> Made:
    inputs = batch.inputs.flatten(1)
    return _judged(draw, batch, lambda count: layers([inputs.shape[1], *hidden_widths(draw), count]), inputs)


def image_mlp(draw: Draw) -> Made:
    return _flat_mlp(draw, images(draw))


def image_autoencoder(draw: Draw) -> Made:
    inputs = images(draw).inputs.flatten(1)
    wide, code = hidden_widths(draw)[:draw.choice(0, 1)], draw.size(2, 64)
    model = layers([inputs.shape[1], *wide, code, *wide[::-1], inputs.shape[1]])
    return model, functional.mse_loss(model(inputs), inputs)


def image_cnn(draw: Draw) -> Made:
    batch = images(draw)
    channels, kernel, stride = [batch.inputs.shape[1]], draw.choice(3, 3, 5), draw.choice(1, 2, 2)
    channels += [draw.size(4, 32) * 2**index for index in range(draw.choice(1, 2, 2, 3))]
    parts = [part for fan_in, fan_out in pairwise(channels)
             for part in (nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2),
                          *([nn.GroupNorm(1, fan_out)] if draw.choice(True, False, False) else []), nn.ReLU())]
    body = nn.Sequential(*parts, *([nn.AdaptiveAvgPool2d(draw.choice(1, 2))] if draw.choice(True, False) else []),
                         nn.Flatten())
    return _with_head(draw, batch, body, body(batch.inputs))


def image_conv_autoencoder(draw: Draw) -> Made:
    inputs = functional.interpolate(images(draw).inputs, size=draw.choice(8, 12, 16, 24))
    channels, wide = inputs.shape[1], draw.size(4, 24)
    model = nn.Sequential(nn.Conv2d(channels, wide, 3, 2, 1), nn.ReLU(), nn.Conv2d(wide, wide, 3, 2, 1), nn.ReLU(),
                          nn.ConvTranspose2d(wide, wide, 2, 2), nn.ReLU(), nn.ConvTranspose2d(wide, channels, 2, 2))
    return model, functional.mse_loss(model(inputs), inputs)


class Transformer(nn.Module):
    """Layers over `[rows, length, width]` with learned positions."""

    def __init__(self, width: int, length: int, num_layers: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True,
                                                               norm_first=True) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs + self.positions
        for layer in self.layers:
            hidden = layer(hidden)
        return self.norm(hidden)


def image_transformer(draw: Draw) -> Made:
    batch, patch = images(draw), draw.choice(2, 3, 4)
    inputs = functional.unfold(batch.inputs, patch, stride=patch).transpose(1, 2)
    width = 2 * draw.size(6, 32)
    embedding = nn.Linear(inputs.shape[2], width)
    body = Transformer(width, inputs.shape[1], draw.choice(1, 2))
    return _with_head(draw, batch, nn.Sequential(embedding, body), body(embedding(inputs)).mean(1))


def _recurrent(draw: Draw, inputs: int, width: int) -> nn.RNNBase:
    return draw.choice(nn.GRU, nn.GRU, nn.LSTM)(inputs, width, draw.choice(1, 1, 2), batch_first=True)


def language_model(draw: Draw) -> Made:
    batch, width = tokens(draw), 2 * draw.size(4, 32)
    embedding, length = nn.Embedding(batch.num_classes, width), batch.inputs.shape[1] - 1
    is_recurrent = draw.choice(True, False)
    body = _recurrent(draw, width, width) if is_recurrent else Transformer(width, length, draw.choice(1, 2))
    hidden = body(embedding(batch.inputs[:, :-1]))
    head = nn.Linear(width, batch.num_classes)
    if draw.choice(True, False):
        head.weight = embedding.weight
    logits = head(hidden[0] if is_recurrent else hidden)
    return nn.Sequential(embedding, body, head), functional.cross_entropy(logits.transpose(1, 2), batch.inputs[:, 1:])


def _text(draw: Draw) -> tuple[Batch, nn.Embedding]:
    """Texts of a few classes."""
    batch, num_classes = tokens(draw), draw.size(2, 20)
    embedding = nn.Embedding(batch.num_classes, draw.size(4, 64))
    return Batch(batch.inputs, batch.labels % num_classes, num_classes), embedding


def text_bag(draw: Draw) -> Made:
    batch, embedding = _text(draw)
    model, loss = _judged(draw, batch, lambda count: layers([embedding.embedding_dim, draw.size(8, 64), count]),
                          embedding(batch.inputs).mean(1))
    return nn.Sequential(embedding, model), loss


def text_cnn(draw: Draw) -> Made:
    batch, embedding = _text(draw)
    filters = nn.Conv1d(embedding.embedding_dim, draw.size(4, 64), draw.choice(2, 3, 5))
    return _with_head(draw, batch, nn.Sequential(embedding, filters),
                      filters(embedding(batch.inputs).transpose(1, 2)).relu().amax(2))


def speech_mlp(draw: Draw) -> Made:
    return _flat_mlp(draw, spectrograms(draw))


def speech_cnn(draw: Draw) -> Made:
    """Convolutions over time."""
    batch = spectrograms(draw)
    widths, kernel = [batch.inputs.shape[2], draw.size(6, 48), draw.size(6, 48)], draw.choice(3, 3, 5)
    body = nn.Sequential(*(part for fan_in, fan_out in pairwise(widths) for part in (
        nn.Conv1d(fan_in, fan_out, kernel, draw.choice(1, 2), kernel // 2), nn.ReLU())))
    hidden = body(batch.inputs.transpose(1, 2))
    return _with_head(draw, batch, body, hidden.mean(2) if draw.choice(True, False) else hidden.flatten(1))


def speech_tdnn(draw: Draw) -> Made:
    """Layers over a few frames at a time (Waibel et al. 1989, doi.org/10.1109/29.21701), as matrices."""
    batch = spectrograms(draw)
    hidden, body = batch.inputs, nn.ModuleList()
    for _ in range(draw.choice(1, 2)):
        stacked = hidden.unfold(1, draw.choice(2, 3, 4, 5), draw.choice(1, 2)).transpose(2, 3).flatten(2)
        body.append(nn.Linear(stacked.shape[2], draw.size(6, 48)))
        hidden = body[-1](stacked).relu()
    return _with_head(draw, batch, body, hidden.mean(1) if draw.choice(True, False) else hidden.flatten(1))


def speech_rnn(draw: Draw) -> Made:
    batch = spectrograms(draw)
    body = _recurrent(draw, batch.inputs.shape[2], draw.size(8, 64))
    return _with_head(draw, batch, body, body(batch.inputs)[0][:, -1])


def table_linear(draw: Draw) -> Made:
    batch = table(draw)
    return _judged(draw, batch, lambda count: nn.Linear(batch.inputs.shape[1], count), batch.inputs)


def table_mlp(draw: Draw) -> Made:
    return _flat_mlp(draw, table(draw))


def table_resnet(draw: Draw) -> Made:
    batch, width = table(draw), draw.size(8, 64)
    inner = draw.choice(width, 2 * width)
    body = nn.Sequential(nn.Linear(batch.inputs.shape[1], width),
                         *(Residual(width, inner) for _ in range(draw.choice(1, 2, 3))), nn.LayerNorm(width), nn.ReLU())
    return _with_head(draw, batch, body, body(batch.inputs))


MAKERS: Mapping[str, Sequence[Maker]] = {
    "vision": (image_mlp, image_cnn, image_transformer, image_autoencoder, image_cnn, image_conv_autoencoder),
    "nlp": (language_model, text_bag, language_model, text_cnn),
    "speech": (speech_mlp, speech_cnn, speech_mlp, speech_rnn, speech_tdnn),
    "tabular": (table_mlp, table_linear, table_resnet),
    "scientific": (coordinate_network, pinn, factorization, graph_network),
    "synthetic": (bowl, bowl, sparse_table),
}
