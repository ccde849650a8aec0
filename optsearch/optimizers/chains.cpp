// Layers of a small network, one after the other for a few parameters at a time, whose units never leave the cache.

#include <cstring>

namespace {

// A tile is a line of the cache; with six units there are as many sums as registers hold.
constexpr int lanes = 8, vectors = 2, tile = lanes * vectors, together = 6, most_units = 256;
constexpr float nothing[tile] = {};

using Vector = float __attribute__((vector_size(4 * lanes)));
using Unaligned = float __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

// One layer; what is added to unit `k` of a tile is `bias[k]` and the tile at `lines + k * stride`.
struct Layer {
    const float* weight;
    const float* bias;
    const float* lines;
    long stride;
    int num_inputs;
};

template <int count, bool rectified>
void units(const Layer& layer, int first, const float* from, float* to) {
    Vector sums[count][vectors];
    for (int unit = 0; unit < count; ++unit)
        for (int vector = 0; vector < vectors; ++vector)
            sums[unit][vector] = layer.bias[first + unit] + *reinterpret_cast<const Unaligned*>(
                layer.lines + (first + unit) * layer.stride + vector * lanes);
    const float* weight = layer.weight + static_cast<long>(first) * layer.num_inputs;
    for (int input = 0; input < layer.num_inputs; ++input, ++weight) {
        Vector seen[vectors];
        for (int vector = 0; vector < vectors; ++vector) {
            seen[vector] = *reinterpret_cast<const Unaligned*>(from + input * tile + vector * lanes);
#if defined(__AVX2__)
            // Compilers would rather read it again for every unit, and reading is what there is least time for.
            __asm__("" : "+x"(seen[vector]));
#endif
        }
        for (int unit = 0; unit < count; ++unit)
            for (int vector = 0; vector < vectors; ++vector)
                sums[unit][vector] += weight[unit * layer.num_inputs] * seen[vector];
    }
    for (int unit = 0; unit < count; ++unit)
        for (int vector = 0; vector < vectors; ++vector) {
            const Vector sum = sums[unit][vector];
            // What isn't a number stays so.
            *reinterpret_cast<Unaligned*>(to + (first + unit) * tile + vector * lanes) =
                rectified ? (sum < 0 ? Vector{} : sum) : sum;
        }
}

// All units, in groups that are as alike as can be.
template <bool rectified>
void tile_of(const Layer& layer, int num_outputs, const float* from, float* to) {
    for (int first = 0, groups = (num_outputs + together - 1) / together; groups > 0; --groups) {
        const int count = (num_outputs - first) / groups;
        switch (count) {
            case 6: units<6, rectified>(layer, first, from, to); break;
            case 5: units<5, rectified>(layer, first, from, to); break;
            case 4: units<4, rectified>(layer, first, from, to); break;
            case 3: units<3, rectified>(layer, first, from, to); break;
            case 2: units<2, rectified>(layer, first, from, to); break;
            default: units<1, rectified>(layer, first, from, to);
        }
        first += count;
    }
}

void copy(const float* from, long from_stride, float* to, long to_stride, int rows, int width) {
    for (int row = 0; row < rows; ++row)
        std::memcpy(to + row * to_stride, from + row * from_stride, width * sizeof(float));
}

}  // namespace

// `from` `[batch, sizes[0], rows * columns]` to `to` `[batch, sizes[num_layers], rows * columns]`. A layer's weights are
// `[batch, outputs, inputs]`. To the first one's outputs `of_rows` `[batch, outputs, rows]` and `of_columns`
// `[batch, outputs, columns]` are added, where there are some; 16 more numbers after the end may be read.
extern "C" void optsearch_chain(const float* from, float* to, const float** weights, const float** biases,
                                const float* of_rows, const float* of_columns, const int* sizes, int num_layers,
                                int begins_with_relu, long batch, long rows, long columns) {
    alignas(64) float scratch[2][most_units * tile];
    const long n = rows * columns;
    for (long member = 0; member < batch; ++member) {
        for (long row = 0; row < rows; ++row) {
            float bias[most_units];
            for (int output = 0; output < sizes[1]; ++output)
                bias[output] = biases[0][output] + (of_rows ? of_rows[output * rows + row] : 0.0f);
            for (long column = 0; column < columns; column += tile) {
                const int width = columns - column < tile ? static_cast<int>(columns - column) : tile;
                const long place = row * columns + column;
                if (width < tile) std::memset(scratch[1], 0, sizes[0] * tile * sizeof(float));
                copy(from + place, n, scratch[1], tile, sizes[0], width);
                if (begins_with_relu)
                    for (int index = 0; index < sizes[0] * tile; ++index)
                        scratch[1][index] = scratch[1][index] < 0 ? 0 : scratch[1][index];
                for (int index = 0; index < num_layers; ++index) {
                    const bool has_lines = index == 0 && of_columns;
                    const Layer layer{weights[index], index == 0 ? bias : biases[index],
                                      has_lines ? of_columns + column : nothing, has_lines ? columns : 0, sizes[index]};
                    (index + 1 == num_layers ? tile_of<false> : tile_of<true>)(
                        layer, sizes[index + 1], scratch[(index + 1) % 2], scratch[index % 2]);
                }
                copy(scratch[(num_layers + 1) % 2], tile, to + place, n, sizes[num_layers], width);
            }
        }
        from += sizes[0] * n;
        to += sizes[num_layers] * n;
        if (of_rows) of_rows += sizes[1] * rows;
        if (of_columns) of_columns += sizes[1] * columns;
        for (int index = 0; index < num_layers; ++index) {
            weights[index] += static_cast<long>(sizes[index]) * sizes[index + 1];
            biases[index] += sizes[index + 1];
        }
    }
}
