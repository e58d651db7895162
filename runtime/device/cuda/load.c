#include "device/cuda/cuda.h"

#include <pthread.h>
#include <stdio.h>

cuda_api cuda;

/* The second versions are those with 64-bit sizes and modes of capture. */
static const library_symbol symbols[] = {
    {"cuInit", &cuda.init, false},
    {"cuDriverGetVersion", &cuda.driver_version, false},
    {"cuGetErrorName", &cuda.error_name, false},
    {"cuGetErrorString", &cuda.error_text, false},
    {"cuDeviceGetCount", &cuda.device_count, false},
    {"cuDeviceGet", &cuda.device_get, false},
    {"cuDeviceGetName", &cuda.device_name, false},
    {"cuDeviceGetAttribute", &cuda.device_attribute, false},
    {"cuDeviceTotalMem_v2", &cuda.device_memory, false},
    {"cuDevicePrimaryCtxRetain", &cuda.context_retain, false},
    {"cuDevicePrimaryCtxRelease_v2", &cuda.context_release, false},
    {"cuCtxSetCurrent", &cuda.context_set, false},
    {"cuStreamCreate", &cuda.stream_create, false},
    {"cuStreamDestroy_v2", &cuda.stream_destroy, false},
    {"cuStreamSynchronize", &cuda.stream_wait, false},
    {"cuMemAlloc_v2", &cuda.alloc, false},
    {"cuMemFree_v2", &cuda.release, false},
    {"cuMemGetInfo_v2", &cuda.memory_info, false},
    {"cuMemcpyHtoDAsync_v2", &cuda.write, false},
    {"cuMemcpyDtoHAsync_v2", &cuda.read, false},
    {"cuMemcpyDtoDAsync_v2", &cuda.copy, false},
    {"cuMemsetD8Async", &cuda.fill, false},
    {"cuModuleLoadData", &cuda.module_load, false},
    {"cuModuleUnload", &cuda.module_unload, false},
    {"cuModuleGetFunction", &cuda.module_function, false},
    {"cuFuncGetAttribute", &cuda.function_attribute, false},
    {"cuFuncSetAttribute", &cuda.function_set, false},
    {"cuFuncGetParamInfo", &cuda.function_parameter, true},
    {"cuLaunchKernel", &cuda.launch, false},
    {"cuLaunchKernelEx", &cuda.launch_config, true},
    {"cuStreamBeginCapture_v2", &cuda.capture_begin, false},
    {"cuStreamEndCapture", &cuda.capture_end, false},
    {"cuGraphInstantiateWithFlags", &cuda.graph_prepare, false},
    {"cuGraphLaunch", &cuda.graph_launch, false},
    {"cuGraphExecDestroy", &cuda.graph_exec_destroy, false},
    {"cuGraphDestroy", &cuda.graph_destroy, false},
};

/* The stub library of the toolkit, libcuda.so, is not to be loaded: it only says that it is one. */
static const char *const names[] = {"libcuda.so.1"};

enum { OLDEST_DRIVER = 11040 }; /* cuGraphInstantiateWithFlags */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int found; /* the driver's version, 0: not yet */

spectra_status cuda_check(int code, const char *what)
{
    if (code == 0)
        return SPECTRA_OK;
    const char *name = NULL, *text = NULL;
    if (cuda.error_name(code, &name) != 0 || cuda.error_text(code, &text) != 0)
        return fail(SPECTRA_EUNSUPPORTED, "%s: the driver failed with code %d", what, code);
    return fail(code == CUDA_OUT_OF_MEMORY ? SPECTRA_ENOMEM : SPECTRA_EUNSUPPORTED, "%s: %s (%s)",
                what, text, name);
}

static spectra_status load_driver(void)
{
    library l;
    int version = 0;
    TRY(library_open("the NVIDIA driver", names, 1, symbols, sizeof symbols / sizeof symbols[0],
                     NULL, &l));
    TRY(cuda_check(cuda.driver_version(&version), "asking the driver for its version"));
    if (version < OLDEST_DRIVER)
        return fail(SPECTRA_EUNSUPPORTED,
                    "the NVIDIA driver is for CUDA %d.%d; needed is one for %d.%d or newer",
                    version / 1000, version % 1000 / 10, OLDEST_DRIVER / 1000,
                    OLDEST_DRIVER % 1000 / 10);
    int code = cuda.init(0);
    if (code == CUDA_NO_DEVICE)
        return fail(SPECTRA_EUNSUPPORTED,
                    "the NVIDIA driver for CUDA %d.%d is there, but no GPU that it may use",
                    version / 1000, version % 1000 / 10);
    TRY(cuda_check(code, "starting the NVIDIA driver"));
    found = version;
    return SPECTRA_OK;
}

spectra_status cuda_open(int *driver)
{
    pthread_mutex_lock(&lock);
    spectra_status status = found ? SPECTRA_OK : load_driver();
    pthread_mutex_unlock(&lock);
    if (status == SPECTRA_OK)
        *driver = found;
    return status;
}
