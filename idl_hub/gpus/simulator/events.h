/* Events: the XIDs that the file STATE.xids holds. Included by nvml.c alone. */
#ifndef IDLHUB_EVENTS_H
#define IDLHUB_EVENTS_H

enum {
    XID_CRITICAL_ERROR = 8, /* nvmlEventTypeXidCriticalError */
    MAX_EVENT_SETS = 256,
    POLL_MILLISECONDS = 500, /* the driver wakes who waits; here the file is looked at */
};

struct event_set {
    bool used;
    bool registered[IDLHUB_MAX_GPUS];
    uint32_t seen[IDLHUB_MAX_GPUS]; /* how many XIDs of the GPU were told, or came before it was registered */
};

struct event_data { /* nvmlEventData_t */
    struct device *device;
    uint64_t type, data;
    unsigned gpu_instance, compute_instance;
};
_Static_assert(sizeof(struct event_data) == 32, "nvmlEventData_t");

static struct event_set event_sets[MAX_EVENT_SETS];

static bool is_event_set(const struct event_set *set)
{
    uintptr_t address = (uintptr_t)set, first = (uintptr_t)event_sets;
    return address >= first && address < (uintptr_t)(event_sets + MAX_EVENT_SETS) &&
           (address - first) % sizeof *set == 0 && set->used;
}

static uint32_t xid_count(unsigned physical_index)
{
    const struct idlhub_xids *found = xids;
    return found ? atomic_load_explicit(&found->gpus[physical_index].count, memory_order_acquire) : 0;
}

int nvmlEventSetCreate(struct event_set **set)
{
    CALL(nvmlEventSetCreate);
    pthread_mutex_lock(&session_lock);
    int number = 0;
    while (number < MAX_EVENT_SETS && event_sets[number].used)
        number++;
    if (number < MAX_EVENT_SETS) {
        *set = &event_sets[number];
        **set = (struct event_set){.used = true};
    }
    pthread_mutex_unlock(&session_lock);
    return number < MAX_EVENT_SETS ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

int nvmlEventSetFree(struct event_set *set)
{
    CALL(nvmlEventSetFree);
    if (!is_event_set(set))
        return NVML_ERROR_INVALID_ARGUMENT;
    set->used = false;
    return NVML_SUCCESS;
}

int nvmlDeviceGetSupportedEventTypes(const struct device *device, uint64_t *types)
{
    DEVICE_CALL(nvmlDeviceGetSupportedEventTypes);
    *types = XID_CRITICAL_ERROR;
    return NVML_SUCCESS;
}

int nvmlDeviceRegisterEvents(const struct device *device, uint64_t types, struct event_set *set)
{
    DEVICE_CALL(nvmlDeviceRegisterEvents);
    if (!is_event_set(set))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (types != XID_CRITICAL_ERROR)
        return NVML_ERROR_NOT_SUPPORTED;
    set->seen[device - devices] = xid_count(device->physical_index);
    set->registered[device - devices] = true;
    return NVML_SUCCESS;
}

static bool take_event(struct event_set *set, struct event_data *data)
{
    for (unsigned index = 0; index < device_count; index++) {
        if (!set->registered[index])
            continue;
        const struct idlhub_xids *found = xids;
        uint32_t count = xid_count(devices[index].physical_index);
        if (count == set->seen[index])
            continue;
        if (count - set->seen[index] > IDLHUB_XIDS_KEPT)
            set->seen[index] = count - IDLHUB_XIDS_KEPT; /* older ones were overwritten */
        uint32_t code = found->gpus[devices[index].physical_index].codes[set->seen[index] % IDLHUB_XIDS_KEPT];
        set->seen[index]++;
        *data = (struct event_data){&devices[index], XID_CRITICAL_ERROR, code, UINT32_MAX, UINT32_MAX};
        return true;
    }
    return false;
}

int nvmlEventSetWait_v2(struct event_set *set, struct event_data *data, unsigned timeout_ms)
{
    CALL(nvmlEventSetWait_v2);
    if (!is_event_set(set))
        return NVML_ERROR_INVALID_ARGUMENT;
    uint64_t end = now_milliseconds() + timeout_ms;
    while (!take_event(set, data)) {
        uint64_t now = now_milliseconds();
        if (initialisations == 0)
            return NVML_ERROR_UNINITIALIZED;
        if (now >= end)
            return NVML_ERROR_TIMEOUT;
        sleep_milliseconds(end - now < POLL_MILLISECONDS ? (long)(end - now) : POLL_MILLISECONDS);
    }
    return NVML_SUCCESS;
}

#endif
