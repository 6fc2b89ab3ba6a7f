// The functions of onnxruntime's C interface that the Go binding does not
// offer: sessions' own allocators, values over any memory, runs without
// allocations, run options with entries. Handles cross as integers, so that
// Go's collector never looks at them. A function that returns a status gives 0
// or one that ort_error takes.
#include <stddef.h>
#include <stdint.h>

// Places in the function table OrtApi, which only grows from version to version
// (onnxruntime_c_api.h). TestTable holds them against the binding's header.
enum ort_api {
	ORT_GetErrorMessage = 2,
	ORT_Run = 9,
	ORT_SessionGetInputCount = 30,
	ORT_SessionGetOutputCount = 31,
	ORT_SessionGetInputTypeInfo = 33,
	ORT_SessionGetOutputTypeInfo = 34,
	ORT_SessionGetInputName = 36,
	ORT_SessionGetOutputName = 37,
	ORT_CreateRunOptions = 39,
	ORT_RunOptionsSetTerminate = 46,
	ORT_RunOptionsUnsetTerminate = 47,
	ORT_CreateTensorWithDataAsOrtValue = 49,
	ORT_GetTensorMutableData = 51,
	ORT_CastTypeInfoToTensorInfo = 55,
	ORT_GetTensorElementType = 60,
	ORT_GetDimensionsCount = 61,
	ORT_GetDimensions = 62,
	ORT_GetTensorTypeAndShape = 65,
	ORT_CreateMemoryInfo = 68,
	ORT_AllocatorAlloc = 75,
	ORT_AllocatorFree = 76,
	ORT_GetAllocatorWithDefaultOptions = 78,
	ORT_ReleaseStatus = 93,
	ORT_ReleaseMemoryInfo = 94,
	ORT_ReleaseValue = 96,
	ORT_ReleaseRunOptions = 97,
	ORT_ReleaseTypeInfo = 98,
	ORT_ReleaseTensorTypeAndShapeInfo = 99,
	ORT_CreateAllocator = 131,
	ORT_ReleaseAllocator = 132,
	ORT_AddRunConfigEntry = 165,
};

#define ORT_API 24  // the table's version: that of the binding's header
#define ORT_RANK 16 // dimensions that ort_tensor has room for

struct ort_tensor {
	int type; // ONNXTensorElementDataType
	size_t rank;
	int64_t dims[ORT_RANK]; // -1 where free
	void *data;             // a value's
};

// ort_init finds the table in the library of that name, which is loaded already.
// It returns 0, or 1 for no such library, 2 for none of onnxruntime's, 3 for one
// that is too old.
int ort_init(const char *library);

// ort_table returns the table's address.
uintptr_t ort_table(void);

// ort_error returns the message of a status, for the caller to free, and frees it.
char *ort_error(uintptr_t status);

uintptr_t ort_ports(uintptr_t session, int output, size_t *count);
// ort_port says what input (or output) i is; name is the caller's to free.
uintptr_t ort_port(uintptr_t session, int output, size_t i, char **name, struct ort_tensor *t);

uintptr_t ort_run(uintptr_t session, uintptr_t options,
                  char **in_names, uintptr_t *in, size_t ins,
                  char **out_names, uintptr_t *out, size_t outs);
uintptr_t ort_run_options(uintptr_t *options);
uintptr_t ort_run_entry(uintptr_t options, const char *key, const char *value);
uintptr_t ort_terminate(uintptr_t options, int on);
void ort_release_run_options(uintptr_t options);

// ort_memory names a device's memory: "Cpu" or "Cuda", and which.
uintptr_t ort_memory(const char *device, int id, uintptr_t *memory);
void ort_release_memory(uintptr_t memory);
uintptr_t ort_allocator(uintptr_t session, uintptr_t memory, uintptr_t *allocator);
void ort_release_allocator(uintptr_t allocator);
uintptr_t ort_alloc(uintptr_t allocator, size_t bytes, uintptr_t *at);
uintptr_t ort_free(uintptr_t allocator, uintptr_t at);

// ort_value makes a value over memory that is there: data, or where that is NULL
// the address at. ort_describe says what a value is.
uintptr_t ort_value(uintptr_t memory, void *data, uintptr_t at, size_t bytes, int64_t *dims, size_t rank, int type, uintptr_t *value);
uintptr_t ort_describe(uintptr_t value, struct ort_tensor *t);
void ort_release_value(uintptr_t value);
