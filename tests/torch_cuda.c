/* What tests/torch_cuda.py builds: as much of CUDA's driver and runtime as PyTorch and Triton ask for where there is a GPU.

   Memory is the host's. A kernel that is launched does nothing, so that what comes out was in the memory before: no number
   means anything. What is true is what is decided before a kernel starts: what is refused, what is compiled, what is called.
   The card is an H100 by what it says. Whatever else is called succeeds and does nothing. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <vector_types.h>

#define MAKE(name) int name(void **handle) { return make(handle); }

enum { VERSION = 13000, HEAD = 4096, MOST = 1 << 16 };
enum { CUDNN = 92000, CUDNN_TYPE_INT64 = 3, CUDNN_TYPE_DESCRIPTOR = 15, THREADS_OF_FUNCTION = 0 };
/* As cudnn_graph.h and cuda.h have them. */
enum { MAJOR = 9, PROCESSORS = 132, SHARED = 227 << 10, USUAL_SHARED = 48 << 10, REGISTERS = 1 << 16, THREADS = 1024 };

static const size_t SIZE = (size_t)80 << 30;

static int set(int *where, int value) { *where = value; return 0; }

static int make(void **handle)
{
    static struct { char of[64]; } made[MOST]; /* PyTorch has numbers of its own in the lowest bits of a stream */
    static int count;
    *handle = &made[count++ % MOST];
    return 0;
}

/* Memory knows its size, in front of it, and what it is: PyTorch asks whether an address is the GPU's or pinned. */

static struct { const char *begin, *end; int kind; } known[MOST];
static int count;

static int kind_of(const char *address)
{
    for (int i = 0; i < count; i++)
        if (address >= known[i].begin && address < known[i].end) return known[i].kind;
    return cudaMemoryTypeUnregistered;
}

static int allocate(void **where, size_t size, int kind)
{
    char *made = mmap(NULL, size + HEAD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED || count == MOST) return cudaErrorMemoryAllocation;
    *(size_t *)made = size + HEAD;
    *where = made + HEAD;
    known[count].begin = *where, known[count].end = made + HEAD + size, known[count++].kind = kind;
    return cudaSuccess;
}

static int release(char *memory)
{
    if (memory == NULL) return cudaSuccess;
    for (int i = 0; i < count; i++)
        if (known[i].begin == memory) known[i] = known[--count];
    return munmap(memory - HEAD, *(size_t *)(memory - HEAD));
}

int cudaMalloc(void **where, size_t size) { return allocate(where, size, cudaMemoryTypeDevice); }
int cudaMallocHost(void **where, size_t size) { return allocate(where, size, cudaMemoryTypeHost); }
int cudaHostAlloc(void **where, size_t size, unsigned flags) { return allocate(where, size, cudaMemoryTypeHost); }
int cudaFree(void *memory) { return release(memory); }
int cudaFreeHost(void *memory) { return release(memory); }
int cudaMemGetInfo(size_t *left, size_t *all) { *left = *all = SIZE; return cudaSuccess; }
int cudaMemset(void *to, int value, size_t size) { memset(to, value, size); return cudaSuccess; }
int cudaMemsetAsync(void *to, int value, size_t size, void *stream) { return cudaMemset(to, value, size); }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memcpy(to, from, size); return cudaSuccess; }

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream)
{
    return cudaMemcpy(to, from, size, kind);
}


int cudaPointerGetAttributes(struct cudaPointerAttributes *told, void *address)
{
    memset(told, 0, sizeof *told);
    told->devicePointer = told->hostPointer = address;
    return set((int *)&told->type, kind_of(address));
}

int cuPointerGetAttribute(void **told, int asked, void *address)
{
    *told = address;
    return cudaSuccess;
}

/* The card. */

static int attribute(int asked)
{
    switch (asked) {
    case cudaDevAttrComputeCapabilityMajor: return MAJOR;
    case cudaDevAttrMultiProcessorCount: return PROCESSORS;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxSharedMemoryPerBlock: return USUAL_SHARED;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return SHARED;
    case cudaDevAttrMaxRegistersPerBlock: return REGISTERS;
    case cudaDevAttrMaxThreadsPerBlock: return THREADS;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2 * THREADS;
    default: return 0;
    }
}

int cudaDeviceGetAttribute(int *told, int asked, int device) { return set(told, attribute(asked)); }
int cuDeviceGetAttribute(int *told, int asked, int device) { return set(told, attribute(asked)); }

int cudaGetDeviceProperties(struct cudaDeviceProp *told, int device)
{
    *told = (struct cudaDeviceProp){
        .name = "a stand-in for an H100", .totalGlobalMem = SIZE, .major = MAJOR, .warpSize = 32,
        .multiProcessorCount = PROCESSORS, .maxThreadsPerBlock = THREADS, .maxThreadsPerMultiProcessor = 2 * THREADS,
        .maxThreadsDim = {THREADS, THREADS, 64}, .maxGridSize = {0x7fffffff, 0xffff, 0xffff},
        .sharedMemPerBlock = USUAL_SHARED, .sharedMemPerBlockOptin = SHARED, .sharedMemPerMultiprocessor = SHARED,
        .regsPerBlock = REGISTERS, .regsPerMultiprocessor = REGISTERS, .l2CacheSize = 50 << 20, .textureAlignment = 512,
    };
    return cudaSuccess;
}

int cudaGetDeviceCount(int *told) { return set(told, 1); }
int cudaGetDevice(int *told) { return set(told, 0); }
int cudaDriverGetVersion(int *told) { return set(told, VERSION); }
int cudaRuntimeGetVersion(int *told) { return set(told, VERSION); }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { set(greatest, -5); return set(least, 0); }
int cuDriverGetVersion(int *told) { return set(told, VERSION); }
int cuDeviceGetCount(int *told) { return set(told, 1); }
int cuDeviceGet(int *told, int index) { return set(told, 0); }
int cuCtxGetDevice(int *told) { return set(told, 0); }
int cuCtxGetCurrent(void **told) { return make(told); }
int cuDevicePrimaryCtxRetain(void **told, int device) { return make(told); }

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *is_active)
{
    *flags = 0;
    return set(is_active, 1);
}

int cudaGetDriverEntryPointByVersion(const char *name, void **told, unsigned version, unsigned long long flags, int *found)
{
    *told = dlsym(RTLD_DEFAULT, name);
    return found ? set(found, *told ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound) : cudaSuccess;
}

/* Streams, events and kernels. */

MAKE(cudaStreamCreate)
MAKE(cudaEventCreate)
int cudaStreamCreateWithFlags(void **told, unsigned flags) { return cudaStreamCreate(told); }
int cudaStreamCreateWithPriority(void **told, unsigned flags, int priority) { return cudaStreamCreate(told); }
int cudaStreamIsCapturing(void *stream, int *is) { return set(is, 0); }
int cuStreamIsCapturing(void *stream, int *is) { return set(is, 0); }
int cudaEventCreateWithFlags(void **told, unsigned flags) { return cudaEventCreate(told); }
int cudaEventElapsedTime(float *milliseconds, void *begin, void *end) { *milliseconds = 1; return cudaSuccess; }
int cuModuleLoad(void **told, const char *file) { return make(told); }
int cuModuleLoadData(void **told, const void *image) { return make(told); }
int cuModuleGetFunction(void **told, void *module, const char *name) { return make(told); }

int cuFuncGetAttribute(int *told, int asked, void *function)
{
    return set(told, asked == THREADS_OF_FUNCTION ? THREADS : 0);
}

int cudaFuncGetAttributes(struct cudaFuncAttributes *told, const void *function)
{
    *told = (struct cudaFuncAttributes){.maxThreadsPerBlock = THREADS, .binaryVersion = 10 * MAJOR};
    return cudaSuccess;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *told) { return set(told, 1); }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *told) { return set(told, 1); }

int __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void **stream)
{
    *grid = *block = (dim3){1, 1, 1};
    *shared = 0, *stream = NULL;
    return cudaSuccess;
}

void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
const char *cudaGetErrorName(int error) { return "an error"; }
const char *cudaGetErrorString(int error) { return "told by a stand-in for CUDA"; }
int cuInit(unsigned flags) { return cudaSuccess; }
int cuGetErrorString(int error, const char **told) { *told = cudaGetErrorString(error); return cudaSuccess; }

/* cuBLAS and cuDNN have a kernel for everything that PyTorch asks them for. */

MAKE(cublasCreate_v2)
MAKE(cudnnCreate)
int cublasGetPointerMode_v2(void *handle, int *told) { return set(told, 0); }
int cublasGetMathMode(void *handle, int *told) { return set(told, 0); }

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d, void *preference,
                                   int most, void *told, int *found)
{
    return set(found, 1);
}

size_t cudnnGetVersion(void) { return CUDNN; }
size_t cudnnGetCudartVersion(void) { return VERSION; }
const char *cudnnGetErrorString(int status) { return "told by a stand-in for cuDNN"; }
void cudnnGetLastErrorString(char *told, size_t size) { told[0] = 0; }
int cudnnBackendCreateDescriptor(int kind, void **told) { return make(told); }

int cudnnBackendGetAttribute(void *descriptor, int name, int type, int64_t wanted, int64_t *found, void *told)
{
    int is_number = type == CUDNN_TYPE_INT64;
    if (is_number && wanted > 0) *(int64_t *)told = 0;
    if (found) *found = is_number || type == CUDNN_TYPE_DESCRIPTOR;
    return 0;
}
