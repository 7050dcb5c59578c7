/* Runs a .tflite file with LiteRT's shared library on a device: every run's time, and the output's bytes.
 *
 *   kit_runner LIBRARY MODEL [--measure times|memory|operators] [--threads N] [--warmup N] [--runs N] [--min-seconds S]
 *              [--seed N] [--kernels xnnpack|builtin] [--input FILE --output FILE] [--thermal FILE]
 *
 * Prints one "name value" on each line, times in microseconds; the last line is "done". Each start measures one thing, for
 * what is read beside the runs would disturb them. Where the emulator counts instructions in a file that MNV3_COUNTER names,
 * a nanosecond is an instruction. With --input, the file holds one or more input tensors, and their
 * outputs go to --output; nothing is measured then. The library is opened at run time, so this program needs nothing but
 * the C library. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* The parts of LiteRT's C interface that are used here; handles are opaque, statuses are 0 for success. */
typedef int Status;
typedef void *Handle;
enum { CPU = 1, TO_READ = 0, TO_WRITE = 1, FLOAT32 = 1, MOST_RANK = 8, MOST_RUNS = 1000000, MOST_THREADS = 1024,
       MOST_PROFILED = 2000, KERNEL = 2, DELEGATE = 4, INSIDE = 8, MOST_KINDS = 4096 };

/* A tensor's type. The strides are not used here; the room behind them is for what later versions may add. */
typedef struct {
    int element;
    unsigned rank : 7, has_strides : 1;
    int sizes[MOST_RANK];
    unsigned strides[MOST_RANK];
    char room[256];
} TensorType;

/* An event of the runtime's profile: times in microseconds, memory before and after, the operator's number. */
typedef struct {
    const char *tag;
    int kind;
    uint64_t start, elapsed, memory[6], index, extra;
    int source;
} Event;

#define FUNCTIONS(X)                                                                                     \
    X(CreateEnvironment, Status, (int, const void *, Handle *))                                          \
    X(CreateModelFromFile, Status, (Handle, const char *, Handle *))                                     \
    X(CreateOptions, Status, (Handle *))                                                                 \
    X(SetOptionsHardwareAccelerators, Status, (Handle, int))                                             \
    X(CreateOpaqueOptions, Status, (const char *, void *, void (*)(void *), Handle *))                   \
    X(AddOpaqueOptions, Status, (Handle, Handle))                                                        \
    X(CreateCompiledModel, Status, (Handle, Handle, Handle, Handle *))                                   \
    X(CompiledModelIsFullyAccelerated, Status, (Handle, bool *))                                         \
    X(GetModelSignature, Status, (Handle, size_t, Handle *))                                             \
    X(GetNumSignatureInputs, Status, (Handle, size_t *))                                                 \
    X(GetNumSignatureOutputs, Status, (Handle, size_t *))                                                \
    X(GetSignatureInputTensorByIndex, Status, (Handle, size_t, Handle *))                                \
    X(GetSignatureOutputTensorByIndex, Status, (Handle, size_t, Handle *))                               \
    X(GetRankedTensorType, Status, (Handle, void *))                                                     \
    X(GetCompiledModelInputBufferRequirements, Status, (Handle, size_t, size_t, Handle *))               \
    X(GetCompiledModelOutputBufferRequirements, Status, (Handle, size_t, size_t, Handle *))              \
    X(CreateManagedTensorBufferFromRequirements, Status, (Handle, const void *, Handle, Handle *))       \
    X(GetTensorBufferPackedSize, Status, (Handle, size_t *))                                             \
    X(LockTensorBuffer, Status, (Handle, void **, int))                                                  \
    X(UnlockTensorBuffer, Status, (Handle))                                                              \
    X(CompiledModelGetProfiler, Status, (Handle, Handle *))                                              \
    X(StartProfiler, Status, (Handle))                                                                   \
    X(GetNumProfilerEvents, Status, (Handle, int *))                                                     \
    X(GetProfilerEvents, Status, (Handle, int, Event *))                                                 \
    X(RunCompiledModel, Status, (Handle, size_t, size_t, Handle *, size_t, Handle *))

#define DECLARE(name, result, arguments) static result(*name) arguments;
FUNCTIONS(DECLARE)

static void fail(const char *what, const char *detail) {
    fflush(stdout);
    fprintf(stderr, "error: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");
    exit(1);
}

static void check(Status status, const char *what) {
    char number[16];
    if (status == 0) return;
    snprintf(number, sizeof number, "status %d", status);
    fail(what, number);
}

static void *symbol(void *library, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "LiteRt%s", name);
    void *found = dlsym(library, full);
    if (!found) fail("the library lacks the function", full);
    return found;
}

static void open_library(const char *path) {
    void *library = dlopen(path, RTLD_NOW);
    if (!library) fail("the library cannot be opened", dlerror());
#define FIND(name, result, arguments) name = (result(*) arguments)symbol(library, #name);
    FUNCTIONS(FIND)
}

/* What the emulator counts: instructions, and the dot products among them. */
static volatile const uint64_t *counted;

static void open_counter(const char *path) {
    int file = open(path, O_RDONLY);
    void *mapped = mmap(NULL, 2 * sizeof *counted, PROT_READ, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED || !*(counted = mapped)) fail("the emulator counts nothing", path);
}

static double now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e6 * (double)time.tv_sec + 1e-3 * (double)time.tv_nsec;
}

static long peak_kb(void) {
    char line[256];
    long found = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &found) == 1) break;
    if (file) fclose(file);
    return found;
}

static void print_temperature(const char *zone) {
    long value;
    FILE *file = zone ? fopen(zone, "r") : NULL;
    if (file && fscanf(file, "%ld", &value) == 1) printf("temperature %ld\n", value);
    if (file) fclose(file);
}

static Handle environment, model, compiled, signature, input, output;
static size_t input_bytes, output_bytes;
static int input_element;

static Handle buffer(bool for_input) {
    TensorType type;
    Handle tensor, requirements, made;
    memset(&type, 0, sizeof type);
    check(for_input ? GetSignatureInputTensorByIndex(signature, 0, &tensor)
                    : GetSignatureOutputTensorByIndex(signature, 0, &tensor),
          "the model's tensor cannot be found");
    check(GetRankedTensorType(tensor, &type), "the model's tensor has no shape");
    for (unsigned axis = 0; axis < type.rank && axis < MOST_RANK; axis++)
        if (type.sizes[axis] < 0) fail("the model leaves a size open; convert it with a fixed batch of 1", NULL);
    if (for_input) input_element = type.element;
    check(for_input ? GetCompiledModelInputBufferRequirements(compiled, 0, 0, &requirements)
                    : GetCompiledModelOutputBufferRequirements(compiled, 0, 0, &requirements),
          "the model's buffers are not known");
    check(CreateManagedTensorBufferFromRequirements(environment, &type, requirements, &made), "no memory for a tensor");
    return made;
}

static void keep(void *memory) { (void)memory; }

static void add_options(Handle options, const char *name, char *settings) {
    Handle made;
    check(CreateOpaqueOptions(name, settings, keep, &made), name);
    check(AddOpaqueOptions(options, made), name);
}

static void load(const char *path, long threads, const char *kernels, bool profiled) {
    static char settings[128], profiling[] = "enable_profiling = true\n";
    Handle options;
    size_t inputs = 0, outputs = 0;
    FILE *readable = fopen(path, "rb");
    if (!readable) fail("the model cannot be read", path);
    fclose(readable);
    check(CreateEnvironment(0, NULL, &environment), "the runtime cannot be set up");
    check(CreateModelFromFile(environment, path, &model), "the model cannot be loaded");
    check(CreateOptions(&options), "no options");
    check(SetOptionsHardwareAccelerators(options, CPU), "the CPU cannot be chosen");
    snprintf(settings, sizeof settings, "kernel_mode = \"%s\"\nnum_threads = %ld\n", kernels, threads);
    add_options(options, "xnnpack", settings);
    if (profiled) add_options(options, "runtime_options_string", profiling);
    check(CreateCompiledModel(environment, model, options, &compiled), "the model cannot be prepared");
    check(GetModelSignature(model, 0, &signature), "the model has no signature");
    check(GetNumSignatureInputs(signature, &inputs), "the model's inputs");
    check(GetNumSignatureOutputs(signature, &outputs), "the model's outputs");
    if (inputs != 1 || outputs != 1) fail("a model with one input and one output is needed", NULL);
    input = buffer(true);
    output = buffer(false);
    check(GetTensorBufferPackedSize(input, &input_bytes), "the input's size");
    check(GetTensorBufferPackedSize(output, &output_bytes), "the output's size");
}

static void give(const void *bytes) {
    void *memory;
    check(LockTensorBuffer(input, &memory, TO_WRITE), "the input cannot be written");
    memcpy(memory, bytes, input_bytes);
    check(UnlockTensorBuffer(input), "the input cannot be written");
}

static void invoke(void) { check(RunCompiledModel(compiled, 0, 1, &input, 1, &output), "the model failed to run"); }

static void fill_random(unsigned long seed) {
    unsigned char *bytes = malloc(input_bytes);
    uint64_t state = seed * 2654435761u + 88172645463325252u;
    if (!bytes) fail("no memory for the input", NULL);
    for (size_t i = 0; i < input_bytes; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        bytes[i] = (unsigned char)(state >> 24);
    }
    /* Random bits of a float32 would be NaN or huge now and then: a pixel value 0..255 instead. */
    for (size_t i = 0; input_element == FLOAT32 && i + sizeof(float) <= input_bytes; i += sizeof(float)) {
        float pixel = (float)bytes[i];
        memcpy(bytes + i, &pixel, sizeof pixel);
    }
    give(bytes);
    free(bytes);
}

static void run_inputs(const char *from, const char *to) {
    FILE *in = fopen(from, "rb"), *out;
    unsigned char *bytes = malloc(input_bytes);
    size_t got, count = 0;
    void *memory;
    if (!in) fail("the input file cannot be read", from);
    if (!bytes) fail("no memory for the input", NULL);
    out = fopen(to, "wb");
    if (!out) fail("the output file cannot be written", to);
    while ((got = fread(bytes, 1, input_bytes, in)) > 0) {
        if (got != input_bytes) fail("the input file is not a whole number of tensors", from);
        give(bytes);
        invoke();
        check(LockTensorBuffer(output, &memory, TO_READ), "the output cannot be read");
        if (fwrite(memory, 1, output_bytes, out) != output_bytes) fail("the output file cannot be written", to);
        check(UnlockTensorBuffer(output), "the output cannot be read");
        count++;
    }
    if (fclose(out)) fail("the output file cannot be written", to);
    if (ferror(in) || count == 0) fail("the input file is empty or cannot be read", from);
    printf("outputs %zu\n", count);
}

static void measure(long runs, double seconds, long warmup, const char *zone) {
    double *times = malloc(sizeof(double) * MOST_RUNS), spent = 0;
    uint64_t dots;
    long done = 0;
    if (!times) fail("no memory for the times", NULL);
    for (long i = 0; i < warmup; i++) invoke();
    print_temperature(zone);
    dots = counted ? counted[1] : 0;
    while ((done < runs || spent < 1e6 * seconds) && done < MOST_RUNS) {
        double began = now_us();
        invoke();
        times[done] = now_us() - began;
        spent += times[done++];
    }
    print_temperature(zone);
    printf("us");
    for (long i = 0; i < done; i++) printf(" %.3f", times[i]);
    printf("\n");
    if (counted) printf("dot_products %llu\n", (unsigned long long)(counted[1] - dots) / (unsigned long long)done);
}

#include "kit_operators.c"

/* Every option that there is: one that is misspelt must not be passed over. */
static void check_options(int count, char **words) {
    static const char *const known[] = {"--measure", "--threads", "--warmup", "--runs", "--min-seconds", "--seed", "--kernels",
                                        "--input", "--output", "--thermal"};
    for (int i = 3; i < count; i += 2) {
        bool found = false;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++) found = found || !strcmp(words[i], known[k]);
        if (!found) fail("unknown option", words[i]);
    }
}

static const char *option(int count, char **words, const char *name, const char *otherwise) {
    for (int i = 3; i + 1 < count; i += 2)
        if (!strcmp(words[i], name)) return words[i + 1];
    return otherwise;
}

static double number(int count, char **words, const char *name, const char *otherwise, double least, double most) {
    const char *text = option(count, words, name, otherwise);
    char *end, message[160];
    double value;
    errno = 0;
    value = strtod(text, &end);
    if (end != text && !*end && !errno && isfinite(value) && value >= least && value <= most) return value;
    snprintf(message, sizeof message, "%s must be a number from %.0f to %.0f, and is", name, least, most);
    fail(message, text);
    return 0;
}

static void measure_what(const char *what, long runs, double seconds, long warmup, const char *zone) {
    double first = now_us();
    invoke();
    if (!strcmp(what, "times")) {
        printf("first_us %.1f\n", now_us() - first);
        measure(runs, seconds, warmup, zone);
    } else if (!strcmp(what, "operators")) {
        measure_operators(runs, seconds, warmup);
    } else {
        for (long i = 0; i < warmup; i++) invoke();
        printf("peak_kb %ld\n", peak_kb());
    }
}

int main(int count, char **words) {
    const char *what;
    bool full = false;
    double began, loaded, seconds;
    long threads, runs, warmup;
    unsigned long seed;
    if (count < 3 || count % 2 == 0) fail("usage: kit_runner LIBRARY MODEL [--NAME VALUE]...", NULL);
    printf("kit_runner 3\n");
    check_options(count, words);
    if (getenv("MNV3_COUNTER")) open_counter(getenv("MNV3_COUNTER"));
    threads = (long)number(count, words, "--threads", "1", 1, MOST_THREADS);
    runs = (long)number(count, words, "--runs", "50", 1, MOST_RUNS);
    warmup = (long)number(count, words, "--warmup", "10", 0, MOST_RUNS);
    seconds = number(count, words, "--min-seconds", "0", 0, 86400);
    seed = (unsigned long)(long)number(count, words, "--seed", "0", -9007199254740992.0, 9007199254740992.0);
    what = option(count, words, "--measure", "times");
    if (strcmp(what, "times") && strcmp(what, "memory") && strcmp(what, "operators"))
        fail("--measure must be times, memory or operators, and is", what);
    open_library(words[1]);
    began = now_us();
    load(words[2], threads, option(count, words, "--kernels", "xnnpack"), !strcmp(what, "operators"));
    loaded = now_us();
    printf("init_us %.1f\ninput_bytes %zu\noutput_bytes %zu\n", loaded - began, input_bytes, output_bytes);
    check(CompiledModelIsFullyAccelerated(compiled, &full), "the delegate's part is not known");
    printf("fully_delegated %d\n", full);
    if (option(count, words, "--input", NULL)) {
        run_inputs(option(count, words, "--input", NULL), option(count, words, "--output", "output.bin"));
    } else {
        fill_random(seed);
        measure_what(what, runs, seconds, warmup, option(count, words, "--thermal", NULL));
    }
    printf("done\n");
    return 0;
}
