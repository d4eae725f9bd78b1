/* A stand-in for libnvidia-ml.so.1: answers what raybatch and Ray ask a driver, from a text file.
 *
 * The file is named by RAYBATCH_NVML_SCENE and read again at each query, so whoever replaces it plays a GPU
 * that overheats, fills up, breaks. One "key value" a line; jobs/nvml_standin.py writes it:
 *
 *   init 9                      nvmlInit fails with this code
 *   gpu GPU-1111                a card begins; its lines follow
 *   name NVIDIA H200
 *   parent 0                    this is a MIG slice of that card: it has memory and processes of its own
 *   memory_total_bytes 1000     likewise memory_used_bytes, temperature_c, power_mw, power_limit_mw,
 *                               utilization_percent, throttle_mask, ecc_uncorrected
 *   compute 4711 500            a process that computes, and its bytes (-1: the driver hides them)
 *   graphics 4711 500           a process that draws
 *   xid 79                      an error; told once to each event set made before the line was there
 *   unsupported power_mw        the card does not know this figure
 *   status 15                   every query about this card fails with this code
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9,
       TIMEOUT = 10, LOST = 15, WRONG_VERSION = 25 };
enum { CARDS_MAX = 16, LISTED_MAX = 64, TEXT_MAX = 96 };

typedef unsigned long long u64;
typedef struct { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; } Process;
typedef struct { Process listed[LISTED_MAX]; unsigned count; } Processes;

enum { MEMORY_TOTAL, MEMORY_USED, TEMPERATURE, POWER, POWER_LIMIT, UTILIZATION, THROTTLE, ECC, FIGURES };
static const char *FIGURE_NAMES[FIGURES] = {
    "memory_total_bytes", "memory_used_bytes", "temperature_c", "power_mw",
    "power_limit_mw", "utilization_percent", "throttle_mask", "ecc_uncorrected",
};

typedef struct {
    char uuid[TEXT_MAX], name[TEXT_MAX];
    int parent, status;
    u64 figures[FIGURES];
    int unsupported[FIGURES];
    Processes compute, graphics;
    u64 xids[LISTED_MAX];
    unsigned xid_count;
} Card;
typedef struct { int init; unsigned count; Card cards[CARDS_MAX]; } Scene;

typedef struct { unsigned index; } Device, *Handle;
typedef struct { int registered[CARDS_MAX]; unsigned told[CARDS_MAX]; } *EventSet;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { Handle device; u64 type, data; unsigned gpu_instance, compute_instance; } Event;

static _Thread_local Scene scene;
static int users; /* of nvmlInit */

/* -- the scene ------------------------------------------------------------------------------------------- */

static void add_process(Processes *to, const char *value) {
    Process process = {0, 0, -1u, -1u};
    long long bytes = 0;
    if (to->count < LISTED_MAX && sscanf(value, "%u %lld", &process.pid, &bytes) == 2) {
        process.bytes = (u64)bytes;
        to->listed[to->count++] = process;
    }
}

static void read_line(Card *card, const char *key, const char *value) {
    if (!strcmp(key, "name")) snprintf(card->name, TEXT_MAX, "%s", value);
    else if (!strcmp(key, "parent")) card->parent = atoi(value);
    else if (!strcmp(key, "status")) card->status = atoi(value);
    else if (!strcmp(key, "compute")) add_process(&card->compute, value);
    else if (!strcmp(key, "graphics")) add_process(&card->graphics, value);
    else if (!strcmp(key, "xid") && card->xid_count < LISTED_MAX) card->xids[card->xid_count++] = strtoull(value, 0, 0);
    for (int figure = 0; figure < FIGURES; figure++) {
        if (!strcmp(key, FIGURE_NAMES[figure])) card->figures[figure] = strtoull(value, 0, 0);
        if (!strcmp(key, "unsupported") && !strcmp(value, FIGURE_NAMES[figure])) card->unsupported[figure] = 1;
    }
}

static void read_scene(void) {
    memset(&scene, 0, sizeof scene);
    const char *path = getenv("RAYBATCH_NVML_SCENE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) {
        scene.init = NO_DRIVER;
        return;
    }
    char line[256], key[32], value[TEXT_MAX];
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%31s %95[^\n]", key, value) != 2) continue;
        if (!strcmp(key, "init")) scene.init = atoi(value);
        else if (!strcmp(key, "gpu") && scene.count < CARDS_MAX) {
            Card *card = &scene.cards[scene.count++];
            snprintf(card->uuid, TEXT_MAX, "%s", value);
            card->parent = -1;
        } else if (scene.count) read_line(&scene.cards[scene.count - 1], key, value);
    }
    fclose(file);
}

static int open_scene(void) {
    read_scene();
    return users > 0 ? OK : UNINITIALIZED;
}

static Handle handle_of(unsigned index) {
    static Device devices[CARDS_MAX];
    devices[index].index = index;
    return &devices[index];
}

/* The card behind a handle, as the scene has it now. */
static int find(Handle device, Card **card) {
    int code = open_scene();
    if (code) return code;
    if (!device) return INVALID;
    if (device->index >= scene.count) return LOST;
    *card = &scene.cards[device->index];
    return (*card)->status;
}

static int figure(Handle device, int which, u64 *value) {
    Card *card;
    int code = find(device, &card);
    if (code) return code;
    if (card->unsupported[which] || (card->parent >= 0 && which > MEMORY_USED)) return NOT_SUPPORTED;
    *value = card->figures[which];
    return OK;
}

static int small_figure(Handle device, int which, unsigned *value) {
    u64 found = 0;
    int code = figure(device, which, &found);
    if (!code) *value = (unsigned)found;
    return code;
}

/* -- the library ----------------------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    read_scene();
    if (!scene.init) users++;
    return scene.init;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    if (users <= 0) return UNINITIALIZED;
    users--;
    return OK;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error of the stand-in's scene";
}

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "stand-in");
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int code = open_scene();
    *count = 0;
    for (unsigned i = 0; i < scene.count; i++) *count += scene.cards[i].parent < 0;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *device) {
    int code = open_scene();
    if (code) return code;
    for (unsigned i = 0; i < scene.count; i++) {
        if (scene.cards[i].parent >= 0) continue;
        if (index--) continue;
        *device = handle_of(i);
        return scene.cards[i].status;
    }
    return INVALID;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle *device) {
    int code = open_scene();
    if (code) return code;
    for (unsigned i = 0; i < scene.count; i++) {
        if (strcmp(scene.cards[i].uuid, uuid)) continue;
        *device = handle_of(i);
        return scene.cards[i].status;
    }
    return NOT_FOUND;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle slice, Handle *device) {
    Card *card;
    int code = find(slice, &card);
    if (code) return code;
    if (card->parent < 0) return INVALID;
    *device = handle_of((unsigned)card->parent);
    return OK;
}

int nvmlDeviceGetUUID(Handle device, char *uuid, unsigned length) {
    Card *card;
    int code = find(device, &card);
    if (!code) snprintf(uuid, length, "%s", card->uuid);
    return code;
}

int nvmlDeviceGetName(Handle device, char *name, unsigned length) {
    Card *card;
    int code = find(device, &card);
    if (!code) snprintf(name, length, "%s", card->name);
    return code;
}

int nvmlDeviceGetIndex(Handle device, unsigned *index) {
    Card *card;
    int code = find(device, &card);
    if (code) return code;
    *index = 0;
    for (unsigned i = 0; i < device->index; i++) *index += scene.cards[i].parent < 0;
    return OK;
}

int nvmlDeviceGetMemoryInfo(Handle device, Memory *memory) {
    int code = figure(device, MEMORY_TOTAL, &memory->total);
    if (!code) code = figure(device, MEMORY_USED, &memory->used);
    memory->free = memory->total - memory->used;
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(Handle device, MemoryV2 *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return WRONG_VERSION;
    int code = figure(device, MEMORY_TOTAL, &memory->total);
    if (!code) code = figure(device, MEMORY_USED, &memory->used);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return code;
}

static int list(const Processes *from, unsigned *count, Process *processes) {
    unsigned room = *count;
    *count = from->count;
    if (room < from->count) return TOO_SMALL;
    if (from->count) memcpy(processes, from->listed, from->count * sizeof *processes);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Handle device, unsigned *count, Process *processes) {
    Card *card;
    int code = find(device, &card);
    return code ? code : list(&card->compute, count, processes);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle device, unsigned *count, Process *processes) {
    Card *card;
    int code = find(device, &card);
    return code ? code : list(&card->graphics, count, processes);
}

int nvmlDeviceGetTemperature(Handle device, unsigned sensor, unsigned *celsius) {
    return sensor ? INVALID : small_figure(device, TEMPERATURE, celsius);
}

int nvmlDeviceGetPowerUsage(Handle device, unsigned *milliwatts) { return small_figure(device, POWER, milliwatts); }

int nvmlDeviceGetEnforcedPowerLimit(Handle device, unsigned *milliwatts) {
    return small_figure(device, POWER_LIMIT, milliwatts);
}

int nvmlDeviceGetUtilizationRates(Handle device, Utilization *percent) {
    percent->memory = 0;
    return small_figure(device, UTILIZATION, &percent->gpu);
}

int nvmlDeviceGetCurrentClocksEventReasons(Handle device, u64 *mask) { return figure(device, THROTTLE, mask); }

int nvmlDeviceGetTotalEccErrors(Handle device, unsigned error, unsigned counter, u64 *count) {
    if (error != 1 || counter != 0) return INVALID; /* uncorrected, since the driver was loaded */
    return figure(device, ECC, count);
}

int nvmlEventSetCreate(EventSet *set) {
    int code = open_scene();
    if (!code) *set = calloc(1, sizeof **set);
    return code;
}

int nvmlEventSetFree(EventSet set) {
    free(set);
    return OK;
}

int nvmlDeviceRegisterEvents(Handle device, u64 types, EventSet set) {
    Card *card;
    int code = find(device, &card);
    if (code) return code;
    if (types != 8) return NOT_SUPPORTED; /* critical XIDs alone */
    set->registered[device->index] = 1;
    set->told[device->index] = card->xid_count;
    return OK;
}

int nvmlEventSetWait_v2(EventSet set, Event *event, unsigned timeout_ms) {
    (void)timeout_ms;
    int code = open_scene();
    if (code) return code;
    for (unsigned i = 0; i < scene.count; i++) {
        Card *card = &scene.cards[i];
        if (!set->registered[i] || set->told[i] >= card->xid_count) continue;
        *event = (Event){handle_of(i), 8, card->xids[set->told[i]++], -1u, -1u};
        return OK;
    }
    return TIMEOUT;
}
