/* The calls that read one device. Included by nvml.c alone. */
#ifndef IDLHUB_DEVICE_H
#define IDLHUB_DEVICE_H

/* What a device is */

int nvmlDeviceGetName(const struct device *device, char *name, unsigned size)
{
    DEVICE_CALL(nvmlDeviceGetName);
    return put_text(name, size, gpu.name);
}

int nvmlDeviceGetUUID(const struct device *device, char *uuid, unsigned size)
{
    DEVICE_CALL(nvmlDeviceGetUUID);
    return put_text(uuid, size, gpu.uuid);
}

struct pci_info { /* nvmlPciInfo_t */
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
};
_Static_assert(sizeof(struct pci_info) == 68, "nvmlPciInfo_t");

static int get_pci_info(enum call call, const struct device *device, struct pci_info *info)
{
    struct idlhub_gpu gpu;
    int code = enter_device(call, device, &gpu);
    if (code)
        return code;
    *info = (struct pci_info){.domain = gpu.pci_domain, .bus = gpu.pci_bus, .device = gpu.pci_device,
                              .device_id = 0x1B0610DE, .subsystem_id = 0x120F10DE};
    write_pci_bus_id(info->bus_id_legacy, sizeof info->bus_id_legacy, &gpu, 4);
    write_pci_bus_id(info->bus_id, sizeof info->bus_id, &gpu, 8);
    return NVML_SUCCESS;
}

int nvmlDeviceGetPciInfo(const struct device *device, struct pci_info *info)
{
    return get_pci_info(CALL_nvmlDeviceGetPciInfo, device, info);
}

int nvmlDeviceGetPciInfo_v2(const struct device *device, struct pci_info *info)
{
    return get_pci_info(CALL_nvmlDeviceGetPciInfo_v2, device, info);
}

int nvmlDeviceGetPciInfo_v3(const struct device *device, struct pci_info *info)
{
    return get_pci_info(CALL_nvmlDeviceGetPciInfo_v3, device, info);
}

int nvmlDeviceGetCudaComputeCapability(const struct device *device, int *major, int *minor)
{
    DEVICE_CALL(nvmlDeviceGetCudaComputeCapability);
    *major = 6; /* sm_61 */
    *minor = 1;
    return NVML_SUCCESS;
}

/* A call that answers with one number. */
#define NUMBER_CALL(name, value)                                \
    int name(const struct device *device, unsigned *number)     \
    {                                                           \
        DEVICE_CALL(name);                                      \
        *number = (value);                                      \
        return NVML_SUCCESS;                                    \
    }

NUMBER_CALL(nvmlDeviceGetIndex, (unsigned)(device - devices))
NUMBER_CALL(nvmlDeviceGetMinorNumber, device->physical_index)
NUMBER_CALL(nvmlDeviceGetBrand, 5)        /* NVML_BRAND_GEFORCE */
NUMBER_CALL(nvmlDeviceGetArchitecture, 4) /* NVML_DEVICE_ARCH_PASCAL */
NUMBER_CALL(nvmlDeviceGetPersistenceMode, 1)
NUMBER_CALL(nvmlDeviceGetComputeMode, 0)  /* NVML_COMPUTEMODE_DEFAULT */
NUMBER_CALL(nvmlDeviceGetDisplayMode, 0)
NUMBER_CALL(nvmlDeviceGetDisplayActive, 0)

/* How it is doing */

NUMBER_CALL(nvmlDeviceGetFanSpeed, gpu.fan_percent)
NUMBER_CALL(nvmlDeviceGetPowerUsage, gpu.power_milliwatts)
NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, gpu.power_limit_milliwatts)
NUMBER_CALL(nvmlDeviceGetPowerManagementLimit, gpu.power_limit_milliwatts)
NUMBER_CALL(nvmlDeviceGetPowerManagementDefaultLimit, gpu.power_limit_milliwatts)
NUMBER_CALL(nvmlDeviceGetPerformanceState, gpu.utilization_percent ? 2 : 8) /* P2 is what CUDA gets */

struct utilization { /* nvmlUtilization_t */
    unsigned gpu, memory;
};
_Static_assert(sizeof(struct utilization) == 8, "nvmlUtilization_t");

int nvmlDeviceGetUtilizationRates(const struct device *device, struct utilization *utilization)
{
    DEVICE_CALL(nvmlDeviceGetUtilizationRates);
    *utilization = (struct utilization){gpu.utilization_percent, gpu.memory_utilization_percent};
    return NVML_SUCCESS;
}

/* Video encoder and decoder are idle; they are sampled over 167 ms. */
#define CODEC_CALL(name)                                                                   \
    int name(const struct device *device, unsigned *utilization, unsigned *sampling_us)    \
    {                                                                                      \
        DEVICE_CALL(name);                                                                 \
        *utilization = 0;                                                                  \
        *sampling_us = 167000;                                                             \
        return NVML_SUCCESS;                                                               \
    }

CODEC_CALL(nvmlDeviceGetEncoderUtilization)
CODEC_CALL(nvmlDeviceGetDecoderUtilization)

struct memory { /* nvmlMemory_t: used includes what the driver reserved */
    uint64_t total, free, used;
};
struct memory_v2 { /* nvmlMemory_v2_t */
    unsigned version;
    uint64_t total, reserved, free, used;
};
_Static_assert(sizeof(struct memory) == 24 && sizeof(struct memory_v2) == 40, "nvmlMemory_t");

static uint64_t memory_free(const struct idlhub_gpu *gpu)
{
    uint64_t taken = gpu->memory_used_bytes + gpu->memory_reserved_bytes;
    return taken < gpu->memory_total_bytes ? gpu->memory_total_bytes - taken : 0;
}

int nvmlDeviceGetMemoryInfo(const struct device *device, struct memory *memory)
{
    DEVICE_CALL(nvmlDeviceGetMemoryInfo);
    uint64_t free_bytes = memory_free(&gpu);
    *memory = (struct memory){gpu.memory_total_bytes, free_bytes, gpu.memory_total_bytes - free_bytes};
    return NVML_SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(const struct device *device, struct memory_v2 *memory)
{
    DEVICE_CALL(nvmlDeviceGetMemoryInfo_v2);
    if (memory->version != (sizeof(struct memory_v2) | 2u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = gpu.memory_total_bytes;
    memory->reserved = gpu.memory_reserved_bytes;
    memory->free = memory_free(&gpu);
    memory->used = gpu.memory_used_bytes;
    return NVML_SUCCESS;
}

int nvmlDeviceGetBAR1MemoryInfo(const struct device *device, struct memory *memory)
{
    DEVICE_CALL(nvmlDeviceGetBAR1MemoryInfo);
    const uint64_t mebibyte = 1 << 20;
    *memory = (struct memory){256 * mebibyte, 254 * mebibyte, 2 * mebibyte};
    return NVML_SUCCESS;
}

int nvmlDeviceGetTemperature(const struct device *device, unsigned sensor, unsigned *celsius)
{
    DEVICE_CALL(nvmlDeviceGetTemperature);
    if (sensor != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = gpu.temperature_celsius;
    return NVML_SUCCESS;
}

struct temperature { /* nvmlTemperature_v1_t */
    unsigned version, sensor;
    int celsius;
};

int nvmlDeviceGetTemperatureV(const struct device *device, struct temperature *temperature)
{
    DEVICE_CALL(nvmlDeviceGetTemperatureV);
    if (temperature->version != (sizeof(struct temperature) | 1u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensor != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    temperature->celsius = (int)gpu.temperature_celsius;
    return NVML_SUCCESS;
}

static const unsigned highest_clock_mhz[] = {1911, 1911, 5505, 1708}; /* graphics, SM, memory, video */
static const unsigned idle_clock_mhz[] = {139, 139, 405, 544};

int nvmlDeviceGetClockInfo(const struct device *device, unsigned clock, unsigned *mhz)
{
    DEVICE_CALL(nvmlDeviceGetClockInfo);
    if (clock >= 4)
        return NVML_ERROR_INVALID_ARGUMENT;
    *mhz = gpu.utilization_percent ? highest_clock_mhz[clock] : idle_clock_mhz[clock];
    return NVML_SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(const struct device *device, unsigned clock, unsigned *mhz)
{
    DEVICE_CALL(nvmlDeviceGetMaxClockInfo);
    if (clock >= 4)
        return NVML_ERROR_INVALID_ARGUMENT;
    *mhz = highest_clock_mhz[clock];
    return NVML_SUCCESS;
}

int nvmlDeviceGetPcieThroughput(const struct device *device, unsigned counter, unsigned *kib_per_second)
{
    DEVICE_CALL(nvmlDeviceGetPcieThroughput);
    (void)counter;
    sleep_milliseconds(20); /* it measures that long on a real GPU too */
    *kib_per_second = 0;
    return NVML_SUCCESS;
}

struct field_value { /* nvmlFieldValue_t */
    unsigned field, scope;
    int64_t timestamp_us, latency_us;
    unsigned value_type;
    int code;
    uint64_t value;
};
_Static_assert(sizeof(struct field_value) == 40, "nvmlFieldValue_t");

int nvmlDeviceGetFieldValues(const struct device *device, int count, struct field_value *values)
{
    DEVICE_CALL(nvmlDeviceGetFieldValues);
    for (int number = 0; number < count; number++)
        values[number].code = NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

/* Who uses it */

struct process_info { /* nvmlProcessInfo_v2_t, and v3 is the same */
    unsigned pid;
    uint64_t memory_used_bytes;
    unsigned gpu_instance, compute_instance;
};
_Static_assert(sizeof(struct process_info) == 24, "nvmlProcessInfo_t");

static unsigned process_count(const struct idlhub_gpu *gpu)
{
    return gpu->process_count < IDLHUB_MAX_PROCESSES ? gpu->process_count : IDLHUB_MAX_PROCESSES;
}

static int list_processes(enum call call, const struct device *device, enum idlhub_process_kind kind,
                          unsigned *count, struct process_info *infos)
{
    struct idlhub_gpu gpu;
    int code = enter_device(call, device, &gpu);
    if (code)
        return code;
    unsigned room = *count, found = 0;
    for (unsigned number = 0; number < process_count(&gpu); number++) {
        const struct idlhub_process *process = &gpu.processes[number];
        if (process->kind != (uint32_t)kind)
            continue;
        if (found < room && infos)
            infos[found] = (struct process_info){process->pid, process->memory_used_bytes, UINT32_MAX, UINT32_MAX};
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define PROCESS_CALL(name, kind)                                                               \
    int name(const struct device *device, unsigned *count, struct process_info *infos)         \
    {                                                                                          \
        return list_processes(CALL_##name, device, kind, count, infos);                        \
    }

PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v2, IDLHUB_COMPUTE)
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v3, IDLHUB_COMPUTE)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v2, IDLHUB_GRAPHICS)
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, IDLHUB_GRAPHICS)

struct process_utilization { /* nvmlProcessUtilizationSample_t */
    unsigned pid;
    uint64_t timestamp_us;
    unsigned sm, memory, encoder, decoder;
};
_Static_assert(sizeof(struct process_utilization) == 32, "nvmlProcessUtilizationSample_t");

/* The GPU's utilization, shared out evenly. */
int nvmlDeviceGetProcessUtilization(const struct device *device, struct process_utilization *samples,
                                    unsigned *count, uint64_t last_seen_us)
{
    DEVICE_CALL(nvmlDeviceGetProcessUtilization);
    (void)last_seen_us;
    unsigned room = *count, found = process_count(&gpu);
    *count = found;
    if (found == 0)
        return NVML_ERROR_NOT_FOUND;
    if (found > room || !samples)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    for (unsigned number = 0; number < found; number++)
        samples[number] = (struct process_utilization){gpu.processes[number].pid, now_us,
                                                       gpu.utilization_percent / found, 0, 0, 0};
    return NVML_SUCCESS;
}

#endif
