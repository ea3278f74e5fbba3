/* The state file: what the simulated GPUs are, have and suffer.
 *
 * layout.py holds the same layout for Python; a test compares every size and offset. A change of
 * the layout is a new IDLHUB_STATE_VERSION. Everything is little-endian, naturally aligned, and of
 * fixed size: the file never shrinks under a program that has it mapped, and is never renamed away.
 *
 * sequence is a seqlock: odd while a writer (one at a time, by flock) is at work. A reader copies,
 * then looks whether the number stayed the same and even.
 */
#ifndef IDLHUB_STATE_H
#define IDLHUB_STATE_H

#include <stdatomic.h>
#include <stdint.h>

#define IDLHUB_STATE_MAGIC "IDLHUBNV"
#define IDLHUB_STATE_VERSION 1u
#define IDLHUB_MAX_GPUS 64
#define IDLHUB_MAX_PROCESSES 32
#define IDLHUB_MAX_FUNCTIONS 1024
#define IDLHUB_XIDS_KEPT 16
#define IDLHUB_MEMORY_NOT_AVAILABLE UINT64_MAX

/* What goes wrong: first the hang, then the error. */
struct idlhub_fault {
    uint32_t code;     /* nvmlReturn_t that calls give; 0: none */
    uint32_t reserved;
    uint64_t hang_ms;  /* how long each call takes; a hanging call goes on once this is set to 0 */
    char function[96]; /* the one NVML function that is affected; "": all */
};

enum idlhub_process_kind { IDLHUB_COMPUTE = 0, IDLHUB_GRAPHICS = 1 };

struct idlhub_process {
    uint32_t pid;
    uint32_t kind;
    uint64_t memory_used_bytes;
};

struct idlhub_gpu {
    char uuid[96];
    char name[96];
    uint32_t pci_domain;
    uint32_t pci_bus;
    uint32_t pci_device;
    uint32_t fan_percent;
    uint64_t memory_total_bytes;
    uint64_t memory_reserved_bytes; /* the driver's own share, in neither used nor free */
    uint64_t memory_used_bytes;
    uint32_t utilization_percent;
    uint32_t memory_utilization_percent;
    uint32_t temperature_celsius;
    uint32_t power_milliwatts;
    uint32_t power_limit_milliwatts;
    uint32_t process_count;
    struct idlhub_fault fault;
    struct idlhub_process processes[IDLHUB_MAX_PROCESSES];
};

struct idlhub_state {
    char magic[8];
    uint32_t version;
    uint32_t gpu_count;
    _Atomic uint32_t sequence;
    uint32_t reserved;
    char driver_version[80];
    struct idlhub_fault driver_fault; /* of NVML as a whole: every call of every program */
    struct idlhub_gpu gpus[IDLHUB_MAX_GPUS];
};

/* A second file, STATE.xids, holds the errors that the driver reported of each GPU: a ring of the newest. */
struct idlhub_gpu_xids {
    _Atomic uint32_t count; /* of all there ever were; number N stands at codes[N % IDLHUB_XIDS_KEPT] */
    uint32_t codes[IDLHUB_XIDS_KEPT];
};

struct idlhub_xids {
    struct idlhub_gpu_xids gpus[IDLHUB_MAX_GPUS];
};

/* A third file, STATE.calls, counts the calls of each function where a program may write to it. */
struct idlhub_call_count {
    char function[96];
    _Atomic uint64_t calls;
};

struct idlhub_calls {
    struct idlhub_call_count functions[IDLHUB_MAX_FUNCTIONS];
};

#endif
