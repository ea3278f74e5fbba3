/* A stand-in for the NVIDIA Management Library (libnvidia-ml.so.1): simulated GeForce GTX 1080 Ti's,
 * as many and as loaded as the state file named by IDLHUB_SIMULATOR_STATE says. Build it with
 *
 *   cc -std=gnu11 -O2 -fPIC -shared -pthread -Wall -Wextra -Werror -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 nvml.c
 *
 * in the folder of this file. Structures and numbers follow NVML's public interface.
 */
#include <stdio.h>

#include "session.h"

/* Tells idl_hub.gpus.nvml that what it loaded is no driver. */
const uint32_t idlhub_simulator_version = IDLHUB_STATE_VERSION;

#define CALL(name)                       \
    do {                                 \
        int code_ = enter(CALL_##name);  \
        if (code_)                       \
            return code_;                \
    } while (0)

#define DEVICE_CALL(name)                                      \
    struct idlhub_gpu gpu;                                     \
    do {                                                       \
        int code_ = enter_device(CALL_##name, device, &gpu);   \
        if (code_)                                             \
            return code_;                                      \
    } while (0)

static int put_text(char *into, unsigned size, const char *text)
{
    if (strlen(text) >= size)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(into, text);
    return NVML_SUCCESS;
}

/* The library as a whole */

int nvmlInit(void) { return initialise(CALL_nvmlInit); }
int nvmlInit_v2(void) { return initialise(CALL_nvmlInit_v2); }

int nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    return initialise(CALL_nvmlInitWithFlags);
}

int nvmlShutdown(void)
{
    count_call(CALL_nvmlShutdown);
    pthread_mutex_lock(&session_lock);
    bool initialised = initialisations > 0;
    if (initialised)
        initialisations--;
    pthread_mutex_unlock(&session_lock);
    return initialised ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

const char *nvmlErrorString(int code)
{
    count_call(CALL_nvmlErrorString);
    switch (code) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *version, unsigned size)
{
    CALL(nvmlSystemGetDriverVersion);
    const struct idlhub_state *current = state;
    char driver_version[sizeof current->driver_version];
    read_state(driver_version, current->driver_version, sizeof driver_version);
    return put_text(version, size, driver_version);
}

int nvmlSystemGetNVMLVersion(char *version, unsigned size)
{
    CALL(nvmlSystemGetNVMLVersion);
    const struct idlhub_state *current = state;
    char nvml_version[sizeof current->driver_version + 4] = "12.";
    read_state(nvml_version + 3, current->driver_version, sizeof current->driver_version);
    return put_text(version, size, nvml_version);
}

static const int cuda_driver_version = 12090; /* CUDA 12 is the last that knows Pascal */

int nvmlSystemGetCudaDriverVersion(int *version)
{
    CALL(nvmlSystemGetCudaDriverVersion);
    *version = cuda_driver_version;
    return NVML_SUCCESS;
}

int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    CALL(nvmlSystemGetCudaDriverVersion_v2);
    *version = cuda_driver_version;
    return NVML_SUCCESS;
}

int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size)
{
    CALL(nvmlSystemGetProcessName);
    char path[64];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    int file = size ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return NVML_ERROR_NOT_FOUND;
    ssize_t length = read(file, name, size - 1);
    close(file);
    if (length <= 0)
        return NVML_ERROR_NOT_FOUND;
    name[length] = '\0'; /* the first word ends with a NUL of its own */
    return NVML_SUCCESS;
}

/* Finding a device */

static int get_count(enum call call, unsigned *count)
{
    int code = enter(call);
    if (code == NVML_SUCCESS)
        *count = device_count;
    return code;
}

static int get_handle(enum call call, unsigned index, struct device **device)
{
    struct idlhub_gpu gpu;
    int code = initialisations ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    if (index < device_count)
        code = enter_device(call, &devices[index], &gpu);
    else
        count_call(call);
    if (code == NVML_SUCCESS)
        *device = &devices[index];
    return code;
}

static void write_pci_bus_id(char *into, size_t size, const struct idlhub_gpu *gpu, int domain_digits)
{
    snprintf(into, size, "%0*X:%02X:%02X.0", domain_digits, gpu->pci_domain, gpu->pci_bus & 0xff,
             gpu->pci_device & 0xff);
}

static int find_handle(enum call call, const char *wanted, bool by_uuid, struct device **device)
{
    const struct idlhub_state *current = state;
    for (unsigned index = 0; initialisations && index < device_count; index++) {
        struct idlhub_gpu gpu;
        read_state(&gpu, &current->gpus[devices[index].physical_index], sizeof gpu);
        char full[32], legacy[32];
        write_pci_bus_id(full, sizeof full, &gpu, 8);
        write_pci_bus_id(legacy, sizeof legacy, &gpu, 4);
        bool found = by_uuid ? strcmp(gpu.uuid, wanted) == 0
                             : strcasecmp(full, wanted) == 0 || strcasecmp(legacy, wanted) == 0;
        if (found)
            return get_handle(call, index, device);
    }
    int code = enter(call);
    return code ? code : NVML_ERROR_NOT_FOUND;
}

int nvmlDeviceGetCount(unsigned *count) { return get_count(CALL_nvmlDeviceGetCount, count); }
int nvmlDeviceGetCount_v2(unsigned *count) { return get_count(CALL_nvmlDeviceGetCount_v2, count); }

int nvmlDeviceGetHandleByIndex(unsigned index, struct device **device)
{
    return get_handle(CALL_nvmlDeviceGetHandleByIndex, index, device);
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device)
{
    return get_handle(CALL_nvmlDeviceGetHandleByIndex_v2, index, device);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device)
{
    return find_handle(CALL_nvmlDeviceGetHandleByUUID, uuid, true, device);
}

int nvmlDeviceGetHandleByPciBusId(const char *pci_bus_id, struct device **device)
{
    return find_handle(CALL_nvmlDeviceGetHandleByPciBusId, pci_bus_id, false, device);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *pci_bus_id, struct device **device)
{
    return find_handle(CALL_nvmlDeviceGetHandleByPciBusId_v2, pci_bus_id, false, device);
}

#include "device.h"
#include "events.h"

/* All the rest of NVML */

#define F(name)                                                        \
    int name(void *first_argument);                                    \
    int name(void *first_argument)                                     \
    {                                                                  \
        return enter_not_supported(CALL_##name, first_argument);       \
    }
IDLHUB_NOT_SUPPORTED(F)
#undef F
