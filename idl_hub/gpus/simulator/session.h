/* What stands behind every call: the mapped state, which GPUs are visible, faults, call counts.
 * Included by nvml.c alone.
 */
#ifndef IDLHUB_SESSION_H
#define IDLHUB_SESSION_H

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "functions.h"
#include "state.h"

enum nvml_return {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
};

enum call {
#define F(name) CALL_##name,
    IDLHUB_SIMULATED(F) IDLHUB_NOT_SUPPORTED(F)
#undef F
    CALL_COUNT
};

static const char *const call_names[] = {
#define F(name) #name,
    IDLHUB_SIMULATED(F) IDLHUB_NOT_SUPPORTED(F)
#undef F
};
_Static_assert(CALL_COUNT <= IDLHUB_MAX_FUNCTIONS, "the file of call counts is too small");

/* A handle is the address of an element of `devices`: its place is the index that the caller sees. */
struct device {
    unsigned physical_index;
};

static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int initialisations;
static const struct idlhub_state *_Atomic state; /* never unmapped: a hanging call may be reading it */
static struct idlhub_calls *_Atomic calls;
static const struct idlhub_xids *_Atomic xids;
static dev_t state_device;
static ino_t state_inode;
static struct device devices[IDLHUB_MAX_GPUS];
static atomic_uint device_count;

static void count_call(enum call call)
{
    struct idlhub_calls *counts = calls;
    if (counts)
        atomic_fetch_add(&counts->functions[call].calls, 1);
}

static void sleep_milliseconds(long milliseconds)
{
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

static uint64_t now_milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Copies a consistent piece of the state. A writer that died halfway is waited for once, for a quarter second. */
static void read_state(void *copy, const void *piece, size_t size)
{
    static _Atomic uint32_t given_up;
    const struct idlhub_state *current = state;
    uint32_t before = 0;
    for (int attempt = 0; attempt < 250; attempt++) {
        before = atomic_load_explicit(&current->sequence, memory_order_acquire);
        if (before % 2 == 0) {
            memcpy(copy, piece, size);
            atomic_thread_fence(memory_order_acquire);
            if (atomic_load_explicit(&current->sequence, memory_order_relaxed) == before)
                return;
        } else if (before == given_up) {
            break;
        }
        sleep_milliseconds(1);
    }
    if (before % 2)
        given_up = before;
    memcpy(copy, piece, size);
}

/* Hangs and answers as a fault says; looks again while it hangs, so that clearing a fault frees the call. */
static int suffer(const struct idlhub_fault *where, enum call call)
{
    struct idlhub_fault fault;
    uint64_t start = now_milliseconds();
    for (;;) {
        read_state(&fault, where, sizeof fault);
        if (fault.function[0] && strncmp(fault.function, call_names[call], sizeof fault.function) != 0)
            return NVML_SUCCESS;
        if (now_milliseconds() - start >= fault.hang_ms)
            return (int)fault.code;
        sleep_milliseconds(10);
    }
}

static int enter(enum call call)
{
    count_call(call);
    if (initialisations == 0)
        return NVML_ERROR_UNINITIALIZED;
    const struct idlhub_state *current = state;
    return suffer(&current->driver_fault, call);
}

static bool is_device(const void *device)
{
    uintptr_t address = (uintptr_t)device, first = (uintptr_t)devices;
    return address >= first && address < (uintptr_t)(devices + device_count) &&
           (address - first) % sizeof *devices == 0;
}

/* What a call on one GPU begins with; *gpu is the GPU as it is now. */
static int enter_device(enum call call, const struct device *device, struct idlhub_gpu *gpu)
{
    int code = enter(call);
    if (code)
        return code;
    if (!is_device(device))
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct idlhub_state *current = state;
    uint32_t gpu_count;
    read_state(&gpu_count, &current->gpu_count, sizeof gpu_count);
    if (device->physical_index >= gpu_count)
        return NVML_ERROR_GPU_IS_LOST; /* the state was made anew with fewer GPUs */
    code = suffer(&current->gpus[device->physical_index].fault, call);
    if (code)
        return code;
    read_state(gpu, &current->gpus[device->physical_index], sizeof *gpu);
    return NVML_SUCCESS;
}

/* What a function begins with that no simulated GPU supports; its first argument may be a device. */
static int enter_not_supported(enum call call, const void *maybe_device)
{
    struct idlhub_gpu gpu;
    int code = is_device(maybe_device) ? enter_device(call, maybe_device, &gpu) : enter(call);
    return code ? code : NVML_ERROR_NOT_SUPPORTED;
}

/* Maps the file STATEsuffix; NULL where it is missing, too short, or not for this program. */
static void *map_beside(const char *state_path, const char *suffix, size_t size, bool writable)
{
    char path[4096];
    if (strlen(state_path) + strlen(suffix) >= sizeof path)
        return NULL;
    strcat(strcpy(path, state_path), suffix);
    int file = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (file < 0)
        return NULL;
    struct stat status;
    void *mapped = MAP_FAILED;
    if (fstat(file, &status) == 0 && (size_t)status.st_size >= size)
        mapped = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, file, 0);
    close(file);
    return mapped == MAP_FAILED ? NULL : mapped;
}

static void map_calls(const char *state_path)
{
    struct idlhub_calls *counts = map_beside(state_path, ".calls", sizeof *counts, true);
    for (int call = 0; counts && call < CALL_COUNT; call++)
        strncpy(counts->functions[call].function, call_names[call], sizeof counts->functions[call].function - 1);
    calls = counts;
}

static bool map_state(void)
{
    const char *path = getenv("IDLHUB_SIMULATOR_STATE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return false;
    struct stat status;
    bool usable = fstat(file, &status) == 0 && (size_t)status.st_size >= sizeof(struct idlhub_state);
    bool mapped_already = state && status.st_dev == state_device && status.st_ino == state_inode;
    void *mapped = MAP_FAILED;
    if (usable && !mapped_already)
        mapped = mmap(NULL, sizeof(struct idlhub_state), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (!usable || mapped_already)
        return usable;
    if (mapped == MAP_FAILED)
        return false;
    const struct idlhub_state *found = mapped;
    if (memcmp(found->magic, IDLHUB_STATE_MAGIC, sizeof found->magic) != 0 ||
        found->version != IDLHUB_STATE_VERSION) {
        munmap(mapped, sizeof(struct idlhub_state));
        return false;
    }
    state = found;
    state_device = status.st_dev;
    state_inode = status.st_ino;
    map_calls(path);
    xids = map_beside(path, ".xids", sizeof(struct idlhub_xids), false);
    return true;
}

static void see(unsigned physical_index)
{
    for (unsigned seen = 0; seen < device_count; seen++)
        if (devices[seen].physical_index == physical_index)
            return;
    devices[device_count].physical_index = physical_index;
    device_count++;
}

static void see_named(const char *wanted, const struct idlhub_state *copy)
{
    char *end;
    unsigned long index = strtoul(wanted, &end, 10);
    if (*wanted && *end == '\0' && index < copy->gpu_count)
        see((unsigned)index);
    for (unsigned gpu = 0; gpu < copy->gpu_count; gpu++)
        if (strcmp(copy->gpus[gpu].uuid, wanted) == 0)
            see(gpu);
}

/* Like the NVIDIA container runtime, apart from `unset`: there a process outside a container sees all. */
static bool find_visible_devices(void)
{
    const struct idlhub_state *current = state;
    struct idlhub_state *copy = malloc(sizeof *copy);
    const char *wish = getenv("NVIDIA_VISIBLE_DEVICES");
    char *names = strdup(wish ? wish : "all");
    if (copy && names) {
        read_state(copy, current, sizeof *copy);
        device_count = 0;
        for (unsigned gpu = 0; strcmp(names, "all") == 0 && gpu < copy->gpu_count; gpu++)
            see(gpu);
        char *rest = NULL;
        for (char *name = strtok_r(names, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest))
            see_named(name, copy); /* none, void and unknown names match nothing */
    }
    bool done = copy && names;
    free(copy);
    free(names);
    return done;
}

static int initialise(enum call call)
{
    pthread_mutex_lock(&session_lock);
    bool first = initialisations == 0;
    bool ready = !first || (map_state() && find_visible_devices());
    pthread_mutex_unlock(&session_lock);
    count_call(call);
    if (!ready)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    const struct idlhub_state *current = state;
    int code = suffer(&current->driver_fault, call); /* outside the lock: it may hang */
    if (code == NVML_SUCCESS)
        initialisations++;
    return code;
}

#endif
