/* What tests/native_cuda.py builds: as much of CUDA's runtime as ONNX Runtime asks for until a graph is on its provider.

   Memory is the host's. Whatever else it calls succeeds and does nothing, so that nothing can be run here. */

#include <stdlib.h>
#include <string.h>

enum { OK = 0, HOPPER = 9, VERSION = 13000, MAJOR = 75, MINOR = 76, MAJOR_OFFSET = 360, MINOR_OFFSET = 364 };
/* The offsets are those of cudaDeviceProp in CUDA 13. */

static const size_t SIZE = (size_t)80 << 30;

static int set(int *where, int value) { *where = value; return OK; }
static int allocate(void **where, size_t size) { *where = calloc(1, size ? size : 1); return *where == NULL; }

int cudaGetDeviceCount(int *count) { return set(count, 1); }
int cudaGetDevice(int *device) { return set(device, 0); }
int cudaDriverGetVersion(int *version) { return set(version, VERSION); }
int cudaRuntimeGetVersion(int *version) { return set(version, VERSION); }
int cudaStreamIsCapturing(void *stream, int *is) { (void)stream; return set(is, 0); }

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    return set(value, attribute == MAJOR ? HOPPER : attribute != MINOR);
}

int cudaGetDeviceProperties(char *properties, int device)
{
    (void)device;
    set((int *)(properties + MAJOR_OFFSET), HOPPER);
    return set((int *)(properties + MINOR_OFFSET), 0);
}

int cudaMemGetInfo(size_t *left, size_t *all) { *left = *all = SIZE; return OK; }
int cudaMalloc(void **where, size_t size) { return allocate(where, size); }
int cudaMallocHost(void **where, size_t size) { return allocate(where, size); }
int cudaHostAlloc(void **where, size_t size, unsigned flags) { (void)flags; return allocate(where, size); }
int cudaFree(void *memory) { free(memory); return OK; }
int cudaFreeHost(void *memory) { free(memory); return OK; }

int cudaMemcpy(void *to, const void *from, size_t size, int kind)
{
    (void)kind;
    memcpy(to, from, size);
    return OK;
}

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream)
{
    (void)stream;
    return cudaMemcpy(to, from, size, kind);
}

const char *cudaGetErrorString(int error) { (void)error; return "told by a stand-in for CUDA"; }
size_t cudnnGetVersion(void) { return 92000; }
