/* The part of kit_runner.c that times operators: included there, not compiled by itself.
 *
 * The runtime's profiler tells each operator that one of its own kernels ran, and, where XNNPACK ran several as one
 * partition, each of those as XNNPACK timed it. */

/* The runtime gives its operators' times in whole microseconds, and many take less than one. While `speed` is 1000, its
 * clock counts a microsecond for every nanosecond, so what it gives are nanoseconds. The library finds this function before
 * the C library's of the same name; profiled_run() counts that it did. */
static volatile unsigned speed = 1, readings;

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*volatile real)(clockid_t, struct timespec *);
    uint64_t rest;
    if (counted && clock == CLOCK_MONOTONIC) {
        time->tv_sec = (time_t)(counted[0] / 1000000000u);
        time->tv_nsec = (long)(counted[0] % 1000000000u);
    } else {
        if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
        if (real(clock, time)) return -1;
    }
    if (speed != 1 && clock == CLOCK_MONOTONIC) {
        readings++;
        rest = (uint64_t)time->tv_nsec * speed;
        time->tv_sec = time->tv_sec * (time_t)speed + (time_t)(rest / 1000000000u);
        time->tv_nsec = (long)(rest % 1000000000u);
    }
    return 0;
}

/* One run with every operator timed. Gives the events of operators, which stay valid until the next run. */
static int profiled_run(Handle profiler, Event **events) {
    static Event *all;
    static int room;
    int count = 0, kept = 0;
    unsigned needed = 2;
    check(StartProfiler(profiler), "the profile cannot be started");
    readings = 0;
    speed = 1000;
    invoke();
    speed = 1;
    check(GetNumProfilerEvents(profiler, &count), "the profile is not known");
    if (count < 1) fail("the library gives no times of operators", NULL);
    if (count > room) {
        all = realloc(all, sizeof(Event) * (size_t)(room = count));
        if (!all) fail("no memory for the profile", NULL);
    }
    memset(all, 0xFF, sizeof(Event) * (size_t)room);
    check(GetProfilerEvents(profiler, count, all), "the profile cannot be read");
    for (int i = 0; i < count; i++) {
        if (!all[i].tag || all[i].kind < 1 || all[i].kind > MOST_KINDS) fail("the library's profile has another form", NULL);
        if (all[i].kind != KERNEL && all[i].kind != DELEGATE && all[i].kind != INSIDE) continue;
        needed += all[i].kind == INSIDE ? 1 : 2;
        all[kept++] = all[i];
    }
    /* XNNPACK reads the clock once for each of its operators, the runtime twice, and the runtime also around the whole. */
    if (readings < needed) fail("the library has a clock of its own, so its operators cannot be timed", NULL);
    *events = all;
    return kept;
}

static const unsigned *compared;

static int by_total(const void *one, const void *other) {
    unsigned a = compared[*(const int *)one], b = compared[*(const int *)other];
    return (a > b) - (a < b);
}

/* Means over the half of the runs whose totals lie in the middle: neither interrupted runs nor a coarse clock spoil them. */
static void print_operators(const Event *events, char **tags, const unsigned *times, const unsigned *totals, int count, int runs) {
    int *order = malloc(sizeof(int) * (size_t)runs), first = runs / 4, last = runs - runs / 4;
    if (!order) fail("no memory for the profile", NULL);
    for (int run = 0; run < runs; run++) order[run] = run;
    compared = totals;
    qsort(order, (size_t)runs, sizeof(int), by_total);
    printf("profiled_runs %d\ntotal_ns %u %u %u\n", runs, totals[order[first]], totals[order[runs / 2]], totals[order[last - 1]]);
    for (int i = 0; i < count; i++) {
        double sum = 0;
        for (int place = first; place < last; place++) sum += times[(size_t)order[place] * (size_t)count + (size_t)i];
        printf("operator %s %lld %.1f %s\n", events[i].kind == INSIDE ? "inside" : events[i].kind == KERNEL ? "kernel" : "delegate",
               (long long)events[i].index, sum / (last - first), tags[i]);
    }
    free(order);
}

/* What one reading of the clock takes, in nanoseconds; the quickest of several stretches, for other work interrupts some. */
static double clock_ns(void) {
    double least = 0;
    for (int stretch = 0; stretch < 50; stretch++) {
        double began = now_us(), taken;
        for (int i = 0; i < 99; i++) now_us();
        taken = (now_us() - began) * 10;
        if (stretch == 0 || taken < least) least = taken;
    }
    return least;
}

static void measure_operators(long runs, double seconds, long warmup) {
    Handle profiler;
    Event *events = NULL;
    unsigned *times = NULL, totals[MOST_PROFILED] = {0};
    char **tags = NULL;
    double spent = 0, began;
    int count = 0, done = 0;
    printf("clock_ns %.2f\n", clock_ns());
    check(CompiledModelGetProfiler(compiled, &profiler), "the library gives no profile");
    for (long i = 0; i < warmup; i++) invoke();
    while ((done < runs || spent < 1e6 * seconds) && done < MOST_PROFILED) {
        int found;
        began = now_us();
        found = profiled_run(profiler, &events);
        spent += now_us() - began;
        if (!times) {
            count = found;
            times = malloc(sizeof(unsigned) * (size_t)count * MOST_PROFILED + 1);
            tags = malloc(sizeof(char *) * (size_t)count + 1);
            if (!times || !tags) fail("no memory for the profile", NULL);
            for (int i = 0; i < count; i++) tags[i] = strdup(events[i].tag);
        }
        if (found != count) fail("the runs have different numbers of operators", NULL);
        for (int i = 0; i < count; i++) {
            unsigned time = events[i].elapsed > UINT32_MAX ? UINT32_MAX : (unsigned)events[i].elapsed;
            times[(size_t)done * (size_t)count + (size_t)i] = time;
            totals[done] += time;
        }
        done++;
    }
    print_operators(events, tags, times, totals, count, done);
}
