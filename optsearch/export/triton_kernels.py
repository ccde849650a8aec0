"""Triton kernels of a learned step: running averages, scales of features, and the MLP that reads them.

Parameters are worked on in tiles, some rows of a tensor by some of its columns. The lanes of a program stand for a few
rows at a time, and go down the tile. What a lane reads, it reads once a kernel; features exist only in registers.
"""

import triton
import triton.language as tl

# Groups of features as bits, in the order in which the weights see them.
GROUPS = ("gradient", "clipped_gradient", "parameter", "momentum", "second_moment", "normalised_momentum",
          "normalised_gradient", "rsqrt_second_moment", "factored_gradient", "factored_momentum")
GRADIENT, CLIPPED_GRADIENT, PARAMETER, MOMENTUM, SECOND_MOMENT = (tl.constexpr(1 << bit) for bit in range(5))
NORMALISED_MOMENTUM, NORMALISED_GRADIENT, RSQRT_SECOND_MOMENT = (tl.constexpr(1 << bit) for bit in range(5, 8))
FACTORED_GRADIENT, FACTORED_MOMENTUM = tl.constexpr(1 << 8), tl.constexpr(1 << 9)
ROOTED, FACTORED = tl.constexpr(0b0011100000), tl.constexpr(0b1100000000)
CLIP = tl.constexpr(0.1)


@triton.jit
def _tile(tables, LANES: tl.constexpr, MOST: tl.constexpr, WIDE: tl.constexpr):
    """This program's tensor, where it begins, its shape, how far the lanes go down and how often, and their places."""
    tiles, tensors = tables
    tile = tiles + tl.program_id(0) * 3
    index = tl.load(tile)
    tensor = tensors + index * 6
    start, row_start, column_start = tl.load(tensor), tl.load(tensor + 1), tl.load(tensor + 2)
    num_rows, width, across = (tl.load(tensor + 3).to(tl.int32), tl.load(tensor + 4).to(tl.int32),
                               tl.load(tensor + 5).to(tl.int32))
    lane, first, down = tl.arange(0, LANES), tl.load(tile + 1), LANES // across
    starts, shape, column = (start, row_start, column_start), (num_rows, width), tl.load(tile + 2)
    if WIDE:
        return index, starts, shape, (1, tl.minimum(MOST, num_rows - first)), first, column + lane
    else:
        times = tl.minimum(MOST, tl.cdiv(num_rows - first, down))
        return index, starts, shape, (down, times), first + lane // across, column + lane % across


@triton.jit
def _factors(lines, starts, shape, strides, rows, columns, NUM: tl.constexpr, WIDE: tl.constexpr):
    """Those that gradients and momenta are multiplied with, one for each factored average."""
    of_rows, of_columns = lines
    found = ()
    for index in tl.static_range(NUM):
        place = of_rows + (tl.cast(index, tl.int64) * strides[0] + starts[1]) + rows
        row = tl.load(place) if WIDE else tl.load(place, mask=rows < shape[0], other=0.0)
        column = tl.load(of_columns + (tl.cast(index, tl.int64) * strides[1] + starts[2]) + columns,
                         mask=columns < shape[1], other=0.0)
        found = found + (row * column,)
    return found


@triton.jit
def _features(gradient, param, momenta, second_moment, factors, rsqrt_eps, CHOSEN: tl.constexpr, WIDTH: tl.constexpr):
    """All of them side by side, `[lanes, WIDTH]`, zeros at the end."""
    NUM: tl.constexpr = len(momenta)
    found = ()
    if GRADIENT & CHOSEN:
        found = found + (gradient,)
    if CLIPPED_GRADIENT & CHOSEN:
        found = found + (tl.minimum(tl.maximum(gradient, -CLIP), CLIP),)
    if PARAMETER & CHOSEN:
        found = found + (param,)
    if MOMENTUM & CHOSEN:
        found = found + momenta
    if SECOND_MOMENT & CHOSEN:
        found = found + (second_moment,)
    if ROOTED & CHOSEN:
        root = tl.rsqrt(second_moment + rsqrt_eps)
        if NORMALISED_MOMENTUM & CHOSEN:
            for index in tl.static_range(NUM):
                found = found + (momenta[index] * root,)
        if NORMALISED_GRADIENT & CHOSEN:
            found = found + (gradient * root,)
        if RSQRT_SECOND_MOMENT & CHOSEN:
            found = found + (root,)
    if FACTORED_GRADIENT & CHOSEN:
        for index in tl.static_range(len(factors)):
            found = found + (factors[index] * gradient,)
    if FACTORED_MOMENTUM & CHOSEN:
        for index in tl.static_range(NUM):
            found = found + (factors[index] * momenta[index],)
    return _side_by_side(found, gradient, WIDTH)


@triton.jit
def _side_by_side(values, like, WIDTH: tl.constexpr):
    """Joined pair by pair, the first half with the second, which keeps their order."""
    for _ in tl.static_range(WIDTH - len(values)):
        values = values + (tl.zeros_like(like),)
    if WIDTH == 64:
        values = _halved(values)
    if WIDTH >= 32:
        values = _halved(values)
    values = _halved(_halved(_halved(_halved(values))))
    return tl.reshape(values[0], [like.shape[0], WIDTH])


@triton.jit
def _halved(values):
    HALF: tl.constexpr = len(values) // 2
    found = ()
    for index in tl.static_range(HALF):
        found = found + (tl.join(values[index], values[index + HALF]),)
    return found


@triton.jit
def average(tables, sources, lines, strides, decays, squares, rsqrt_eps, NUM_MOMENTA: tl.constexpr,
            NUM_FACTORED: tl.constexpr, CHOSEN: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr,
            MOST: tl.constexpr, WIDE: tl.constexpr, SCALES: tl.constexpr):
    """Move the averages where they stand; leave behind each tile's sums of squared features, `[tiles, WIDTH]`."""
    _, starts, shape, down, rows, columns = _tile(tables, LANES, MOST, WIDE)
    gradients, params, momenta, second_moments = sources
    sums = tl.zeros([LANES, WIDTH], tl.float32)
    # Written with shares, which are small and exact, as `torch.lerp` has it.
    second_share = 1 - tl.load(decays + NUM_MOMENTA)
    for _ in range(0, down[1]):
        is_there = columns < shape[1] if WIDE else (rows < shape[0]) & (columns < shape[1])
        at = rows * shape[1] + columns
        gradient = tl.load(gradients + starts[0] + at, mask=is_there, other=0.0)
        param = tl.load(params + starts[0] + at, mask=is_there, other=0.0)
        second_moment = tl.load(second_moments + starts[0] + at, mask=is_there, other=0.0)
        second_moment -= (second_moment - gradient * gradient) * second_share
        tl.store(second_moments + starts[0] + at, second_moment, mask=is_there)
        moved = ()
        for index in tl.static_range(NUM_MOMENTA):
            place = momenta + (tl.cast(index, tl.int64) * strides[2] + starts[0]) + at
            momentum = tl.load(place, mask=is_there, other=0.0)
            momentum -= (momentum - gradient) * (1 - tl.load(decays + index))
            tl.store(place, momentum, mask=is_there)
            moved = moved + (momentum,)
        if SCALES:
            factors = _factors(lines, starts, shape, strides, rows, columns, NUM_FACTORED, WIDE)
            features = _features(gradient, param, moved, second_moment, factors, rsqrt_eps, CHOSEN, WIDTH)
            sums += tl.where(is_there[:, None], features * features, 0.0)
        rows += down[0]
    if SCALES:
        tl.store(squares + tl.program_id(0) * WIDTH + tl.arange(0, WIDTH), tl.sum(sums, axis=0))


@triton.jit
def scale(squares, ends, sizes, scales, eps, WIDTH: tl.constexpr, TILES: tl.constexpr):
    """From the sums of a tensor's tiles what its features are multiplied with, `[tensors, WIDTH]`."""
    tensor, feature = tl.program_id(0), tl.arange(0, WIDTH)
    first, last = tl.load(ends + 2 * tensor), tl.load(ends + 2 * tensor + 1)
    sums = tl.zeros([TILES, WIDTH], tl.float32)
    for start in range(first, last, TILES):
        tile = start + tl.arange(0, TILES)
        sums += tl.load(squares + tile[:, None] * WIDTH + feature[None, :], mask=(tile < last)[:, None], other=0.0)
    tl.store(scales + tensor * WIDTH + feature, tl.rsqrt(tl.sum(sums, axis=0) / tl.load(sizes + tensor) + eps))


@triton.jit
def _activated(values, ACTIVATION: tl.constexpr):
    if ACTIVATION == "relu":
        return tl.maximum(values, 0.0)
    elif ACTIVATION == "gelu":
        return 0.5 * values * (1 + tl.erf(values * 0.7071067811865476))
    elif ACTIVATION == "silu":
        return values * tl.sigmoid(values)
    else:
        return 2 * tl.sigmoid(2 * values) - 1


@triton.jit
def step(tables, sources, lines, strides, layers, projections, outputs, numbers, NUM_MOMENTA: tl.constexpr,
         NUM_FACTORED: tl.constexpr, CHOSEN: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr,
         MOST: tl.constexpr, WIDE: tl.constexpr, HIDDEN: tl.constexpr, NUM_LAYERS: tl.constexpr,
         HAS_LINES: tl.constexpr, HAS_MAGNITUDE: tl.constexpr, ACTIVATION: tl.constexpr, PRECISION: tl.constexpr):
    """What the head makes of the MLP's outputs, `[parameters]`.

    `layers` are the first weights `[tensors, WIDTH, HIDDEN]`, scaled for each tensor, the others `[HIDDEN, HIDDEN]` one
    after the other, biases one a row, and the readout `[2, HIDDEN]` and its biases.
    """
    tensor, starts, shape, down, rows, columns = _tile(tables, LANES, MOST, WIDE)
    gradients, params, momenta, second_moments = sources
    first, others, biases, readout, readout_biases = layers
    rsqrt_eps, exp_scale = numbers
    unit = tl.arange(0, HIDDEN)
    square = unit[:, None] * HIDDEN + unit[None, :]
    own = tl.load(first + tensor * (WIDTH * HIDDEN) + tl.arange(0, WIDTH)[:, None] * HIDDEN + unit[None, :])
    if HAS_LINES:
        of_columns = tl.load(projections[1] + starts[2] * HIDDEN + columns[:, None] * HIDDEN + unit[None, :],
                             mask=(columns < shape[1])[:, None], other=0.0) + tl.load(biases + unit)[None, :]
    for _ in range(0, down[1]):
        is_there = columns < shape[1] if WIDE else (rows < shape[0]) & (columns < shape[1])
        at = rows * shape[1] + columns
        gradient = tl.load(gradients + starts[0] + at, mask=is_there, other=0.0)
        param = tl.load(params + starts[0] + at, mask=is_there, other=0.0)
        second_moment = tl.load(second_moments + starts[0] + at, mask=is_there, other=0.0)
        seen = ()
        for index in tl.static_range(NUM_MOMENTA):
            place = momenta + (tl.cast(index, tl.int64) * strides[2] + starts[0]) + at
            seen = seen + (tl.load(place, mask=is_there, other=0.0),)
        factors = _factors(lines, starts, shape, strides, rows, columns, NUM_FACTORED, WIDE)
        features = _features(gradient, param, seen, second_moment, factors, rsqrt_eps, CHOSEN, WIDTH)
        hidden = tl.dot(features, own, input_precision=PRECISION)
        if HAS_LINES:
            hidden += of_columns
            of_rows = projections[0] + starts[1] * HIDDEN
            if WIDE:
                hidden += tl.load(of_rows + rows * HIDDEN + unit)[None, :]
            else:
                hidden += tl.load(of_rows + rows[:, None] * HIDDEN + unit[None, :],
                                  mask=(rows < shape[0])[:, None], other=0.0)
        else:
            hidden += tl.load(biases + unit)[None, :]
        hidden = _activated(hidden, ACTIVATION)
        for layer in tl.static_range(1, NUM_LAYERS):
            hidden = tl.dot(hidden, tl.load(others + (layer - 1) * (HIDDEN * HIDDEN) + square),
                            input_precision=PRECISION) + tl.load(biases + layer * HIDDEN + unit)[None, :]
            hidden = _activated(hidden, ACTIVATION)
        direction = tl.sum(hidden * tl.load(readout + unit)[None, :], axis=1) + tl.load(readout_biases)
        if HAS_MAGNITUDE:
            magnitude = (tl.sum(hidden * tl.load(readout + HIDDEN + unit)[None, :], axis=1)
                         + tl.load(readout_biases + 1))
            direction *= tl.exp(exp_scale * magnitude)
        tl.store(outputs + starts[0] + at, direction, mask=is_there)
        rows += down[0]
