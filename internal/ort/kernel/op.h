#include <stddef.h>
#include <stdint.h>

// Places in onnxruntime's function table (onnxruntime_c_api.h), as in ../shim.h,
// whose TestTable holds these too.
enum ort_api {
	ORT_CreateStatus = 0,
	ORT_CreateCustomOpDomain = 26,
	ORT_CustomOpDomain_Add = 27,
	ORT_AddCustomOpDomain = 28,
	ORT_GetTensorMutableData = 51,
	ORT_GetDimensionsCount = 61,
	ORT_GetDimensions = 62,
	ORT_GetTensorTypeAndShape = 65,
	ORT_KernelInfoGetAttribute_float = 85,
	ORT_KernelInfoGetAttribute_int64 = 86,
	ORT_KernelContext_GetInput = 90,
	ORT_KernelContext_GetOutput = 91,
	ORT_ReleaseStatus = 93,
	ORT_ReleaseTensorTypeAndShapeInfo = 99,
	ORT_KernelInfo_GetInputCount = 230,
	ORT_KernelInfoGetConstantInput_tensor = 249,
	ORT_KernelContext_ParallelFor = 274,
};

// OrtCustomOp, up to what version 17 of it had.
struct op {
	uint32_t version;
	void *(*create)(const void *, const void *, void *);
	const char *(*name)(const struct op *);
	const char *(*provider)(const struct op *);
	int (*input_type)(const struct op *, size_t);
	size_t (*inputs)(const struct op *);
	int (*output_type)(const struct op *, size_t);
	size_t (*outputs)(const struct op *);
	void (*compute)(void *, void *);
	void (*destroy)(void *);
	int (*input_kind)(const struct op *, size_t);
	int (*output_kind)(const struct op *, size_t);
	int (*input_memory)(const struct op *, size_t);
	int (*input_arity)(const struct op *);
	int (*input_alike)(const struct op *);
	int (*output_arity)(const struct op *);
	int (*output_alike)(const struct op *);
	void *(*create2)(const void *, const void *, void *, void **);
	void *(*compute2)(void *, void *);
	void *(*infer)(const struct op *, void *);
	int (*first_version)(const struct op *);
	int (*last_version)(const struct op *);
	// what follows onnxruntime does not read at this version

	const char *called;
	size_t ins, outs;
	size_t matrices, each; // of each: bytes, floats and, of three, bytes; a bias for each may follow
};

// op_register adds the operators of this package to session options. api is the
// function table. It returns 0 or a status.
uintptr_t op_register(uintptr_t api, uintptr_t options);
