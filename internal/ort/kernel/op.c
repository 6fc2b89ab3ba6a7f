// The kernels as operators of onnxruntime.
#include "op.h"

#include <stdlib.h>
#include <string.h>

#include "kernel.h"

typedef void *ptr;
typedef ptr status;
typedef void (*any)(void);

static const any *api;

#define CALL(name, result, types) ((result(*) types)api[ORT_##name])
#define TRY(call)          \
	do {                     \
		status s_ = (call);    \
		if (s_) return s_;     \
	} while (0)

static status fail(const char *why) {
	return CALL(CreateStatus, status, (int, const char *))(1, why); // ORT_FAIL
}

// A tensor is a value's data and shape, with the last dimension apart.
struct tensor {
	void *data;
	size_t rank;
	int64_t dims[8];
	int64_t rows, width; // the product of all dimensions but the last; the last
};

static status look(ptr value, struct tensor *t) {
	ptr info;
	TRY(CALL(GetTensorTypeAndShape, status, (ptr, ptr *))(value, &info));
	status s = CALL(GetDimensionsCount, status, (ptr, size_t *))(info, &t->rank);
	if (!s && t->rank > 0 && t->rank <= 8) s = CALL(GetDimensions, status, (ptr, int64_t *, size_t))(info, t->dims, t->rank);
	CALL(ReleaseTensorTypeAndShapeInfo, void, (ptr))(info);
	if (s) return s;
	if (t->rank < 1 || t->rank > 8) return fail("a tensor of no dimension, or of more than 8");
	t->rows = 1;
	for (size_t i = 0; i + 1 < t->rank; i++) t->rows *= t->dims[i];
	t->width = t->dims[t->rank - 1];
	return CALL(GetTensorMutableData, status, (ptr, void **))(value, &t->data);
}

static status input(ptr context, size_t i, struct tensor *t) {
	ptr value;
	TRY(CALL(KernelContext_GetInput, status, (ptr, size_t, ptr *))(context, i, &value));
	return look(value, t);
}

// output makes output i, of x's shape but for the last dimension.
static status output(ptr context, size_t i, const struct tensor *x, int64_t width, float **data) {
	int64_t dims[8];
	ptr value;
	memcpy(dims, x->dims, sizeof dims);
	dims[x->rank - 1] = width;
	TRY(CALL(KernelContext_GetOutput, status, (ptr, size_t, int64_t *, size_t, ptr *))(context, i, dims, x->rank, &value));
	return CALL(GetTensorMutableData, status, (ptr, void **))(value, (void **)data);
}

static status constant(ptr info, size_t i, struct tensor *t) {
	int is;
	ptr value;
	TRY(CALL(KernelInfoGetConstantInput_tensor, status, (ptr, size_t, int *, ptr *))(info, i, &is, &value));
	return is ? look(value, t) : fail("a weight is not constant");
}

static status parallel(ptr context, void (*f)(void *, size_t), size_t n, void *data) {
	if (n == 1) {
		f(data, 0);
		return NULL;
	}
	return CALL(KernelContext_ParallelFor, status, (ptr, void (*)(void *, size_t), size_t, size_t, void *))(context, f, n, 0, data);
}

// MatMul(x [.., k], q, scales, bias?) is x times the transpose of a matrix
// [n, k], plus bias; GatedMatMul(x, q, scales, q, scales, bias?, bias?) is silu of
// that times another's. Those with Zeros have zero points behind the scales.
struct matmul {
	int matrices;
	int zeros;
	struct matrix w[2];
};

static void matmul_destroy(void *kernel) {
	struct matmul *m = kernel;
	if (!m) return;
	for (int i = 0; i < m->matrices; i++) kernel_free(&m->w[i]);
	free(m);
}

static status matmul_load(struct matmul *m, ptr info) {
	int64_t n, k, bits;
	TRY(CALL(KernelInfoGetAttribute_int64, status, (ptr, const char *, int64_t *))(info, "N", &n));
	TRY(CALL(KernelInfoGetAttribute_int64, status, (ptr, const char *, int64_t *))(info, "K", &k));
	TRY(CALL(KernelInfoGetAttribute_int64, status, (ptr, const char *, int64_t *))(info, "bits", &bits));
	int64_t blocks = (k + BLOCK - 1) / BLOCK;
	size_t inputs;
	TRY(CALL(KernelInfo_GetInputCount, status, (ptr, size_t *))(info, &inputs));
	for (int i = 0; i < m->matrices; i++) {
		struct tensor q, scales, zeros = {0}, bias = {0};
		size_t each = 2 + m->zeros, last = 1 + each * m->matrices + i;
		if (last < inputs) {
			TRY(constant(info, last, &bias));
			if (bias.width != n) return fail("a bias has not the size of its matrix");
		}
		TRY(constant(info, 1 + each * i, &q));
		TRY(constant(info, 2 + each * i, &scales));
		if (m->zeros) TRY(constant(info, 3 + each * i, &zeros));
		if (q.rows * q.width != n * blocks * BLOCK * bits / 8 || scales.rows * scales.width != n * blocks ||
		    (m->zeros && zeros.rows * zeros.width != n * ((blocks + 1) / 2)))
			return fail("a quantised matrix has not the size that its attributes say");
		m->w[i] = (struct matrix){.n = (int)n, .k = (int)k, .bits = (int)bits, .zeros = m->zeros};
		switch (kernel_pack(&m->w[i], q.data, scales.data, zeros.data, bias.data)) {
		case 1: return fail("no memory for a quantised matrix");
		case 2: return fail("a quantised matrix has a scale beyond half precision");
		}
	}
	return NULL;
}

static status matmul_make(ptr info, int matrices, int zeros, void **kernel) {
	struct matmul *m = calloc(1, sizeof *m);
	if (!m) return fail("no memory");
	m->matrices = matrices;
	m->zeros = zeros;
	status s = matmul_load(m, info);
	if (s) matmul_destroy(m);
	else *kernel = m;
	return s;
}

#define MATMUL_CREATE(name, matrices, zeros) \
	static status name(const void *op, const void *table, ptr info, void **kernel) { return matmul_make(info, matrices, zeros, kernel); }
MATMUL_CREATE(matmul_create, 1, 0)
MATMUL_CREATE(matmul_zeros_create, 1, 1)
MATMUL_CREATE(gated_create, 2, 0)
MATMUL_CREATE(gated_zeros_create, 2, 1)

struct matmul_run {
	const struct matmul *m;
	const float *x;
	uint8_t *rows;
	float *y;
	int64_t count, rows_a_part;
	int tiles, tiles_a_part;
};

static void matmul_quantise(void *data, size_t part) {
	struct matmul_run *r = data;
	int k = r->m->w[0].k;
	size_t row = kernel_row_bytes(k);
	int64_t end = (int64_t)(part + 1) * r->rows_a_part;
	for (int64_t i = part * r->rows_a_part; i < end && i < r->count; i++) kernel_quantise(r->rows + i * row, r->x + i * k, k);
}

static void matmul_multiply(void *data, size_t part) {
	struct matmul_run *r = data;
	int from = (int)part * r->tiles_a_part, to = from + r->tiles_a_part;
	kernel_matmul(r->y, r->rows, (int)r->count, &r->m->w[0], r->m->matrices > 1 ? &r->m->w[1] : NULL, from, to < r->tiles ? to : r->tiles);
}

// Multiplications that are worth another thread: some 10 us.
#define WORTH (1 << 19)

static status matmul_compute(void *kernel, ptr context) {
	const struct matmul *m = kernel;
	const struct matrix *w = &m->w[0];
	struct tensor x;
	struct matmul_run r = {.m = m, .tiles = kernel_tiles(w)};
	TRY(input(context, 0, &x));
	if (x.width != w->k) return fail("x has not the width of the matrix");
	TRY(output(context, 0, &x, w->n, &r.y));
	r.x = x.data;
	r.count = x.rows;
	if (r.count == 0) return NULL;
	// ORT's threads take parts as they come; small ones make up for what delays one.
	int64_t work = r.count * w->k * COLUMNS * m->matrices;
	r.tiles_a_part = (int)(WORTH / work);
	if (r.tiles_a_part < 1) r.tiles_a_part = 1;
	if (r.tiles_a_part * 64 < r.tiles) r.tiles_a_part = (r.tiles + 63) / 64;
	r.rows_a_part = (WORTH / 16 + w->k - 1) / w->k;
	if (!(r.rows = malloc(r.count * kernel_row_bytes(w->k)))) return fail("no memory for the rows of a product");
	status s = parallel(context, matmul_quantise, (r.count + r.rows_a_part - 1) / r.rows_a_part, &r);
	if (!s) s = parallel(context, matmul_multiply, (r.tiles + r.tiles_a_part - 1) / r.tiles_a_part, &r);
	free(r.rows);
	return s;
}

// Norm(x, weight) is its RMS norm; SkipNorm(x, skip, weight) that of x + skip,
// and the sum.
struct norm {
	float eps;
	int skip;
};

static status norm_make(ptr info, int skip, void **kernel) {
	struct norm *n = malloc(sizeof *n);
	if (!n) return fail("no memory");
	n->skip = skip;
	status s = CALL(KernelInfoGetAttribute_float, status, (ptr, const char *, float *))(info, "epsilon", &n->eps);
	if (s) free(n);
	else *kernel = n;
	return s;
}

static status norm_create(const void *op, const void *table, ptr info, void **kernel) { return norm_make(info, 0, kernel); }
static status skip_create(const void *op, const void *table, ptr info, void **kernel) { return norm_make(info, 1, kernel); }

struct norm_run {
	float *norm, *sum;
	const float *x, *skip, *weight;
	int64_t count, rows_a_part;
	int k;
	float eps;
};

static void norm_rows(void *data, size_t part) {
	struct norm_run *r = data;
	int64_t end = (int64_t)(part + 1) * r->rows_a_part;
	for (int64_t i = part * r->rows_a_part; i < end && i < r->count; i++) {
		int64_t at = i * r->k;
		kernel_norm(r->norm + at, r->skip ? r->sum + at : NULL, r->x + at, r->skip ? r->skip + at : NULL, r->weight, r->k, r->eps);
	}
}

static status norm_compute(void *kernel, ptr context) {
	const struct norm *n = kernel;
	struct tensor x, skip, weight;
	struct norm_run r = {.eps = n->eps};
	TRY(input(context, 0, &x));
	if (n->skip) {
		TRY(input(context, 1, &skip));
		if (skip.rows != x.rows || skip.width != x.width) return fail("x and skip are of two shapes");
		r.skip = skip.data;
		TRY(output(context, 1, &x, x.width, &r.sum));
	}
	TRY(input(context, 1 + n->skip, &weight));
	if (weight.rows != 1 || weight.width != x.width) return fail("the norm's weight has not x's width");
	TRY(output(context, 0, &x, x.width, &r.norm));
	r.x = x.data;
	r.weight = weight.data;
	r.count = x.rows;
	r.k = (int)x.width;
	r.rows_a_part = (WORTH / 16 + r.k - 1) / r.k;
	if (r.count == 0) return NULL;
	return parallel(context, norm_rows, (r.count + r.rows_a_part - 1) / r.rows_a_part, &r);
}

static void norm_destroy(void *kernel) { free(kernel); }

enum { FLOAT = 1, UINT8 = 2 }; // ONNXTensorElementDataType

static const char *op_name(const struct op *o) { return o->called; }
static const char *op_provider(const struct op *o) { return NULL; } // the CPU
static int op_input_type(const struct op *o, size_t i) { return i > 0 && i <= o->each * o->matrices && (i - 1) % o->each != 1 ? UINT8 : FLOAT; }
static size_t op_inputs(const struct op *o) { return o->ins; }
static int op_output_type(const struct op *o, size_t i) { return FLOAT; }
static size_t op_outputs(const struct op *o) { return o->outs; }
static int op_input_kind(const struct op *o, size_t i) { return o->matrices && i > o->each * o->matrices; } // 1: optional
static int op_output_kind(const struct op *o, size_t i) { return 0; }
static int op_memory(const struct op *o, size_t i) { return 0; }
static int op_zero(const struct op *o) { return 0; }
static int op_first(const struct op *o) { return 1; }
static int op_last(const struct op *o) { return 1; }

#define OP(what, in, out, count, weights, prefix_create, prefix)                                                                     \
	{                                                                                                                          \
		.version = 17, .name = op_name, .provider = op_provider, .input_type = op_input_type, .inputs = op_inputs,               \
		.output_type = op_output_type, .outputs = op_outputs, .destroy = prefix##_destroy, .input_kind = op_input_kind,            \
		.output_kind = op_output_kind, .input_memory = op_memory, .input_arity = op_zero, .input_alike = op_zero,                   \
		.output_arity = op_zero, .output_alike = op_zero, .create2 = prefix_create, .compute2 = prefix##_compute,                \
		.first_version = op_first, .last_version = op_last, .called = what, .ins = in, .outs = out, .matrices = count, .each = weights,          \
	}

static struct op ops[] = {
    OP("MatMul", 4, 1, 1, 2, matmul_create, matmul),
    OP("MatMulZeros", 5, 1, 1, 3, matmul_zeros_create, matmul),
    OP("GatedMatMul", 7, 1, 2, 2, gated_create, matmul),
    OP("GatedMatMulZeros", 9, 1, 2, 3, gated_zeros_create, matmul),
    OP("Norm", 2, 1, 0, 0, norm_create, norm),
    OP("SkipNorm", 3, 2, 0, 0, skip_create, norm),
};

uintptr_t op_register(uintptr_t table, uintptr_t options) {
	static ptr domain; // lives as long as the program: sessions use it
	api = (const any *)table;
	status s = NULL;
	if (!domain) {
		ptr made;
		s = CALL(CreateCustomOpDomain, status, (const char *, ptr *))("imagebind", &made);
		for (size_t i = 0; !s && i < sizeof ops / sizeof *ops; i++) s = CALL(CustomOpDomain_Add, status, (ptr, const void *))(made, &ops[i]);
		if (!s) domain = made;
	}
	if (!s) s = CALL(AddCustomOpDomain, status, (ptr, ptr))((ptr)options, domain);
	return (uintptr_t)s;
}
