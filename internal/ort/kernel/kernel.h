// Products of float rows with quantised matrices. Rows are rounded to 8 bits in
// blocks of 32, products are exact integers within a block, and blocks add up in
// float32 in order, whatever the number of rows: a row's result does not depend
// on the others.
#ifndef IMAGEBIND_KERNEL_H
#define IMAGEBIND_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum {
	BLOCK = 32,  // weights along k that share a scale
	COLUMNS = 8, // of a tile: neighbouring outputs that are computed together
};

// A matrix is [n, k] weights of 4 or 8 bits, packed in tiles. A tile's block is
// 8 half-precision scales, one a column; with zeros 8 zero points; then 4 weights
// of column 0, 4 of column 1 … for each of the 8 quads of a block; with 4 bits,
// quad i in the low nibbles and quad i + 4 in the high ones.
struct matrix {
	int n, k, bits;
	int zeros; // whether blocks have zero points: with 4 bits only
	uint8_t *packed;
	float *bias; // [n], and zeros to the end of the last tile; NULL: none
};

// kernel_supported says whether this machine has what the kernels use.
int kernel_supported(void);

// kernel_pack packs what MatMulNBits takes: q [n, blocks, 32*bits/8], low nibble
// first, scales [n, blocks], and where w->zeros the zero points [n, blocks/2], low
// nibble first; else they are 8 and 128. bias [n] may be NULL. It returns 0, 1 for no memory, 2 for scales beyond half precision; the
// matrix is to be freed in any case.
int kernel_pack(struct matrix *w, const uint8_t *q, const float *scales, const uint8_t *zeros, const float *bias);
void kernel_free(struct matrix *w);

int kernel_tiles(const struct matrix *w);
size_t kernel_row_bytes(int k);                              // of a quantised row
void kernel_quantise(uint8_t *dst, const float *x, int k);   // x [k]

// kernel_matmul computes the columns of tiles from, ..., to-1 of y [m, n] for
// quantised rows [m], with its bias. With up, y is silu(rows * w) * (rows * up),
// up being another matrix of w's shape.
void kernel_matmul(float *y, const uint8_t *rows, int m, const struct matrix *w, const struct matrix *up, int from, int to);

// kernel_norm writes sum = x + skip [k], and norm = sum / sqrt(mean(sum^2) +
// eps) * weight. Without skip, sum is not written; it may be x or skip itself.
void kernel_norm(float *norm, float *sum, const float *x, const float *skip, const float *weight, int k, float eps);

#endif
