/* A plugin for qemu's user-mode emulation of 64-bit ARM. It counts the instructions that the emulated program executes, and how
 * many of them are integer dot products (SDOT), in the first 16 bytes of the file that MNV3_COUNTER names. kit_runner.c maps
 * the same file, and so reads how far the count is.
 *
 * There is no header file to include: the few functions of qemu's plugin interface that are used are declared here.
 * PLUGIN_API is the version of that interface. */
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, INSTRUCTIONS = 0, DOT_PRODUCTS = 1, COUNTS = 2 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block, void (*executed)(unsigned int, void *), int registers,
                                                 void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
#if PLUGIN_API >= 3
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction, void *target, size_t length);
#else
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
#endif

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = PLUGIN_API;

static uint64_t *counts;

static uint32_t word_of(const struct qemu_plugin_insn *instruction) {
    uint32_t word = 0;
#if PLUGIN_API >= 3
    qemu_plugin_insn_data(instruction, &word, sizeof word);
#else
    memcpy(&word, qemu_plugin_insn_data(instruction), sizeof word);
#endif
    return word;
}

/* SDOT of two vectors, and of a vector and one element of another; bit 30 is the vectors' length (Arm ARM, C7.2). */
static bool is_dot_product(uint32_t word) {
    return (word & 0xbfe0fc00u) == 0x0e809400u || (word & 0xbfc0f400u) == 0x0f80e000u;
}

/* Both numbers of a block travel in one pointer: a block has a few hundred instructions at most. */
static void executed(unsigned int cpu, void *data) {
    uintptr_t numbers = (uintptr_t)data;

    (void)cpu;
    __atomic_fetch_add(counts + INSTRUCTIONS, numbers & 0xffff, __ATOMIC_RELAXED);
    if (numbers >> 16) __atomic_fetch_add(counts + DOT_PRODUCTS, numbers >> 16, __ATOMIC_RELAXED);
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    size_t total = qemu_plugin_tb_n_insns(block), dots = 0;

    (void)id;
    for (size_t index = 0; index < total; index++) dots += is_dot_product(word_of(qemu_plugin_tb_get_insn(block, index)));
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, NO_REGISTERS, (void *)(uintptr_t)(dots << 16 | total));
}

EXPORT int qemu_plugin_install(plugin_id id, const void *information, int count, char **words) {
    const char *path = getenv("MNV3_COUNTER");
    int file = path ? open(path, O_RDWR) : -1;

    (void)information, (void)count, (void)words;
    counts = mmap(NULL, COUNTS * sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (counts == MAP_FAILED) {
        fprintf(stderr, "error: the counter's file cannot be used: %s\n", path ? path : "none");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
