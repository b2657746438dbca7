// NVIDIA's management library as far as nap-agent asks it: two GPUs, in the state that the file
// beside this library names: the first may be lost, the second ill.
// Names, layouts and numbers are those of nvml.h, version 13.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_FOUND = 6, GPU_IS_LOST = 15, LIB_RM_VERSION_MISMATCH = 18 };
enum { REMAPPED_PENDING = 144, REMAPPED_FAILURE = 145 };
enum { VALUE_UNSIGNED_LONG_LONG = 3 };
enum { GPU_IDLE = 0x1, SW_POWER_CAP = 0x4, HW_SLOWDOWN = 0x8, HW_THERMAL_SLOWDOWN = 0x40 };

typedef struct {
    unsigned field_id, scope_id;
    long long timestamp, latency_us;
    int value_type, result;
    union { double d; unsigned long long ull; } value;
} field_value;

static int is_second(const void *device) { return *(const char *)device; }

static int is(const char *state) {
    char path[4096], word[64] = "";
    Dl_info info;
    if (!dladdr((void *)is, &info)) return 0;
    const char *name = strrchr(info.dli_fname, '/');
    snprintf(path, sizeof path, "%.*s/pretend-nvml", (int)(name ? name - info.dli_fname : 0), info.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int found = 0;
    while (fscanf(file, "%63s", word) == 1) found |= strcmp(word, state) == 0;
    fclose(file);
    return found;
}

int nvmlInit_v2(void) {
    return is("mismatch") ? LIB_RM_VERSION_MISMATCH : SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int result) { (void)result; return "an error"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "580.159.04");
    return SUCCESS;
}

// What the first real question of a look would hang in.
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device) {
    static char gpus[2] = {0, 1};
    while (is("hang")) usleep(50000);
    if (strcmp(bus_id, "0001:00:00.0") == 0) *device = &gpus[0];
    else if (strcmp(bus_id, "0002:00:00.0") == 0) *device = &gpus[1];
    else return NOT_FOUND;
    return *device == &gpus[0] && is("lost") ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetFieldValues(void *device, int count, field_value *values) {
    for (int i = 0; i < count; i++) {
        int is_failure = values[i].field_id == REMAPPED_FAILURE && is("remap-failed");
        int is_pending = values[i].field_id == REMAPPED_PENDING && is("remap-pending");
        values[i].value_type = VALUE_UNSIGNED_LONG_LONG;
        values[i].result = SUCCESS;
        values[i].value.ull = is_second(device) && (is_failure || is_pending);
    }
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    *reasons = !is_second(device) ? SW_POWER_CAP : is("hot") ? HW_SLOWDOWN | HW_THERMAL_SLOWDOWN : GPU_IDLE;
    return SUCCESS;
}
