#include "shim.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef void *ptr;
typedef ptr status;
typedef void (*any)(void);

static const any *api;

// CALL calls a function of the table by its name, as the type that it has there.
#define CALL(name, result, types) ((result(*) types)api[ORT_##name])
#define P(handle) ((ptr)(handle))
#define S(call) ((uintptr_t)(call))
#define TRY(call)             \
	do {                      \
		status s_ = (call);   \
		if (s_) return S(s_); \
	} while (0)

int ort_init(const char *library) {
	struct base {
		const any *(*get)(uint32_t);
		const char *(*version)(void);
	};
	ptr lib = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
	if (!lib) return 1;
	const struct base *(*get)(void) = (const struct base *(*)(void))dlsym(lib, "OrtGetApiBase");
	if (!get) return 2;
	api = get()->get(ORT_API);
	return api ? 0 : 3;
}

uintptr_t ort_table(void) { return (uintptr_t)api; }

char *ort_error(uintptr_t s) {
	char *text = strdup(CALL(GetErrorMessage, const char *, (ptr))(P(s)));
	CALL(ReleaseStatus, void, (ptr))(P(s));
	return text;
}

// fill reads the type and dimensions of info into t.
static status fill(ptr info, struct ort_tensor *t) {
	status s = CALL(GetTensorElementType, status, (ptr, int *))(info, &t->type);
	if (!s) s = CALL(GetDimensionsCount, status, (ptr, size_t *))(info, &t->rank);
	if (!s && t->rank <= ORT_RANK) s = CALL(GetDimensions, status, (ptr, int64_t *, size_t))(info, t->dims, t->rank);
	return s;
}

uintptr_t ort_ports(uintptr_t session, int output, size_t *count) {
	return S(output ? CALL(SessionGetOutputCount, status, (ptr, size_t *))(P(session), count)
	                : CALL(SessionGetInputCount, status, (ptr, size_t *))(P(session), count));
}

uintptr_t ort_port(uintptr_t session, int output, size_t i, char **name, struct ort_tensor *t) {
	ptr allocator, type, info = NULL;
	char *own;
	TRY(CALL(GetAllocatorWithDefaultOptions, status, (ptr *))(&allocator));
	TRY(output ? CALL(SessionGetOutputName, status, (ptr, size_t, ptr, char **))(P(session), i, allocator, &own)
	           : CALL(SessionGetInputName, status, (ptr, size_t, ptr, char **))(P(session), i, allocator, &own));
	*name = strdup(own);
	TRY(CALL(AllocatorFree, status, (ptr, ptr))(allocator, own));
	TRY(output ? CALL(SessionGetOutputTypeInfo, status, (ptr, size_t, ptr *))(P(session), i, &type)
	           : CALL(SessionGetInputTypeInfo, status, (ptr, size_t, ptr *))(P(session), i, &type));
	status s = CALL(CastTypeInfoToTensorInfo, status, (ptr, ptr *))(type, &info); // NULL where it is no tensor
	if (!s && info) s = fill(info, t);
	CALL(ReleaseTypeInfo, void, (ptr))(type);
	return S(s);
}

uintptr_t ort_run(uintptr_t session, uintptr_t options,
                  char **in_names, uintptr_t *in, size_t ins,
                  char **out_names, uintptr_t *out, size_t outs) {
	return S(CALL(Run, status, (ptr, ptr, char **, uintptr_t *, size_t, char **, size_t, uintptr_t *))(
	    P(session), P(options), in_names, in, ins, out_names, outs, out));
}

uintptr_t ort_run_options(uintptr_t *options) { return S(CALL(CreateRunOptions, status, (uintptr_t *))(options)); }

uintptr_t ort_run_entry(uintptr_t options, const char *key, const char *value) {
	return S(CALL(AddRunConfigEntry, status, (ptr, const char *, const char *))(P(options), key, value));
}

uintptr_t ort_terminate(uintptr_t options, int on) {
	return S(on ? CALL(RunOptionsSetTerminate, status, (ptr))(P(options))
	            : CALL(RunOptionsUnsetTerminate, status, (ptr))(P(options)));
}

void ort_release_run_options(uintptr_t options) { CALL(ReleaseRunOptions, void, (ptr))(P(options)); }

uintptr_t ort_memory(const char *device, int id, uintptr_t *memory) {
	// 0 and 0: OrtDeviceAllocator, OrtMemTypeDefault.
	return S(CALL(CreateMemoryInfo, status, (const char *, int, int, int, uintptr_t *))(device, 0, id, 0, memory));
}

void ort_release_memory(uintptr_t memory) { CALL(ReleaseMemoryInfo, void, (ptr))(P(memory)); }

uintptr_t ort_allocator(uintptr_t session, uintptr_t memory, uintptr_t *allocator) {
	return S(CALL(CreateAllocator, status, (ptr, ptr, uintptr_t *))(P(session), P(memory), allocator));
}

void ort_release_allocator(uintptr_t allocator) { CALL(ReleaseAllocator, void, (ptr))(P(allocator)); }

uintptr_t ort_alloc(uintptr_t allocator, size_t bytes, uintptr_t *at) {
	return S(CALL(AllocatorAlloc, status, (ptr, size_t, uintptr_t *))(P(allocator), bytes, at));
}

uintptr_t ort_free(uintptr_t allocator, uintptr_t at) {
	return S(CALL(AllocatorFree, status, (ptr, ptr))(P(allocator), P(at)));
}

uintptr_t ort_value(uintptr_t memory, void *data, uintptr_t at, size_t bytes, int64_t *dims, size_t rank, int type, uintptr_t *value) {
	return S(CALL(CreateTensorWithDataAsOrtValue, status, (ptr, ptr, size_t, int64_t *, size_t, int, uintptr_t *))(
	    P(memory), data ? data : P(at), bytes, dims, rank, type, value));
}

uintptr_t ort_describe(uintptr_t value, struct ort_tensor *t) {
	ptr info;
	TRY(CALL(GetTensorTypeAndShape, status, (ptr, ptr *))(P(value), &info));
	status s = fill(info, t);
	CALL(ReleaseTensorTypeAndShapeInfo, void, (ptr))(info);
	if (!s) s = CALL(GetTensorMutableData, status, (ptr, ptr *))(P(value), &t->data);
	return S(s);
}

void ort_release_value(uintptr_t value) { CALL(ReleaseValue, void, (ptr))(P(value)); }
