/*
 * A closed-loop echo load: what the server costs is read from outside, so that neither the server nor
 * its library has to be changed for it.
 *
 * Each of N connections keeps one batch of D messages in flight: it sends the D messages in one write,
 * waits until all of them have come back, and sends the next batch. The load is closed on purpose: a
 * server that is slower is asked less often, and never drowns, so that the processor time of a message
 * means the same for every server.
 *
 * The result is the server's processor time, not its throughput: throughput also depends on this program
 * and on whatever else the machine does.
 *
 * The run has three phases. Warming up lasts until its time is over and every connection was served
 * once, so that accepting connections and a cold interpreter are not counted. Measuring reads the
 * server's processor time at its beginning and at its end, in full flight both times. Ending starts
 * no new batches and waits for those under way, so that the server sees every connection close in good
 * order.
 *
 * Prints one line of JSON; complains on standard error and exits with 1 if the server misbehaves.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEADER_SIZE = 4,
    READ_SIZE = 256 * 1024,
    EVENTS_AT_ONCE = 1024,
    SILENCE_MILLISECONDS = 10 * 1000,
};

struct options {
    int port;
    pid_t pid;
    int connections;
    int depth;
    size_t size;
    bool header;
    double seconds;
};

struct batch {
    unsigned char *bytes;
    size_t length;
};

struct connection {
    int descriptor;
    size_t sent;
    size_t received;
    double started;
    bool served;
    bool waits_to_write;
};

struct processor_time {
    double total;
    unsigned long user_ticks;
    unsigned long system_ticks;
};

struct latencies {
    float *microseconds;
    size_t count;
    size_t capacity;
};

enum phase { WARMING_UP, MEASURING, ENDING };

struct run {
    struct options options;
    struct batch batch;
    struct connection *connections;
    int epoll;
    enum phase phase;
    int unserved;
    int busy;
    unsigned long messages;
    struct latencies latencies;
};

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *allocate(void *old, size_t size)
{
    void *memory = realloc(old, size);
    if (memory == NULL)
        fail("out of memory: %zu bytes", size);
    return memory;
}

static double in_seconds(struct timespec time)
{
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return in_seconds(time);
}

/*
 * The total is the clock of the process: exact to the nanosecond, and all of its threads are in it, also
 * those that have ended. How much of it was user and how much system is known only from samples that the
 * kernel takes at its ticks, so /proc/PID/stat gives the shares and not the sum.
 */
static struct processor_time read_processor_time(pid_t pid)
{
    struct processor_time result;
    clockid_t clock;
    struct timespec time;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0)
        fail("there is no process %d any more", (int)pid);
    result.total = in_seconds(time);

    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail("%s: %s", path, strerror(errno));
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = '\0';
    /* The second field is the program's name, in brackets, and may itself hold blanks and brackets. */
    const char *rest = strrchr(text, ')');
    if (rest == NULL || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                               &result.user_ticks, &result.system_ticks) != 2)
        fail("%s is not understood: %s", path, text);
    return result;
}

static long parse_number(const char *name, const char *text, long least)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || number < least)
        fail("--%s: a whole number of at least %ld is wanted, not \"%s\"", name, least, text);
    return number;
}

static struct options parse_options(int count, char **values)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},        {"pid", required_argument, NULL, 'i'},
        {"connections", required_argument, NULL, 'c'}, {"depth", required_argument, NULL, 'd'},
        {"size", required_argument, NULL, 's'},        {"seconds", required_argument, NULL, 't'},
        {"header", no_argument, NULL, 'h'},            {NULL, 0, NULL, 0},
    };
    struct options options = {.connections = 1, .depth = 1, .size = 1, .seconds = 1.0};
    int letter;
    while ((letter = getopt_long(count, values, "", known, NULL)) != -1) {
        switch (letter) {
        case 'p': options.port = (int)parse_number("port", optarg, 1); break;
        case 'i': options.pid = (pid_t)parse_number("pid", optarg, 1); break;
        case 'c': options.connections = (int)parse_number("connections", optarg, 1); break;
        case 'd': options.depth = (int)parse_number("depth", optarg, 1); break;
        case 's': options.size = (size_t)parse_number("size", optarg, 1); break;
        case 't': options.seconds = strtod(optarg, NULL); break;
        case 'h': options.header = true; break;
        default: exit(2);
        }
    }
    if (optind != count || options.port == 0 || options.pid == 0 || !(options.seconds > 0)) {
        fprintf(stderr, "usage: %s --port PORT --pid PID-OF-THE-SERVER [--connections N] [--depth N] [--size BYTES]"
                        " [--header] [--seconds S]\n", values[0]);
        exit(2);
    }
    return options;
}

/* Every message of the batch is different, so that one that is lost, doubled or out of order is noticed. */
static struct batch make_batch(const struct options *options)
{
    size_t header = options->header ? HEADER_SIZE : 0;
    size_t length = (header + options->size) * (size_t)options->depth;
    struct batch batch = {.bytes = allocate(NULL, length), .length = length};
    unsigned char *position = batch.bytes;
    for (int message = 0; message < options->depth; message++) {
        uint32_t announced = htonl((uint32_t)options->size);
        memcpy(position, &announced, header);
        position += header;
        for (size_t index = 0; index < options->size; index++)
            *position++ = (unsigned char)(index * 7 + (size_t)message * 31 + 1);
    }
    return batch;
}

static void watch(struct run *run, struct connection *connection, int operation)
{
    struct epoll_event event = {.data.ptr = connection};
    event.events = connection->waits_to_write ? EPOLLIN | EPOLLOUT : EPOLLIN;
    if (epoll_ctl(run->epoll, operation, connection->descriptor, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void open_connection(struct run *run, struct connection *connection)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)run->options.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    connection->descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (connection->descriptor < 0)
        fail("socket: %s", strerror(errno));
    if (connect(connection->descriptor, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect: %s", strerror(errno));
    /* A batch larger than a segment must not wait for the acknowledgement of its first part. */
    setsockopt(connection->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(run, connection, EPOLL_CTL_ADD);
}

static void send_rest(struct run *run, struct connection *connection)
{
    const struct batch *batch = &run->batch;
    while (connection->sent < batch->length) {
        ssize_t sent = send(connection->descriptor, batch->bytes + connection->sent, batch->length - connection->sent,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0)
            connection->sent += (size_t)sent;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            fail("send: %s", strerror(errno));
    }
    bool waits = connection->sent < batch->length;
    if (waits != connection->waits_to_write) {
        connection->waits_to_write = waits;
        watch(run, connection, EPOLL_CTL_MOD);
    }
}

static void start_batch(struct run *run, struct connection *connection)
{
    connection->sent = 0;
    connection->received = 0;
    connection->started = now();
    send_rest(run, connection);
}

static void add_latency(struct latencies *latencies, double seconds)
{
    if (latencies->count == latencies->capacity) {
        latencies->capacity = latencies->capacity ? 2 * latencies->capacity : 1 << 16;
        latencies->microseconds =
            allocate(latencies->microseconds, latencies->capacity * sizeof *latencies->microseconds);
    }
    latencies->microseconds[latencies->count++] = (float)(seconds * 1e6);
}

static void batch_came_back(struct run *run, struct connection *connection)
{
    if (!connection->served) {
        connection->served = true;
        run->unserved--;
    }
    if (run->phase == ENDING) {
        run->busy--;
        return;
    }
    if (run->phase == MEASURING) {
        run->messages += (unsigned long)run->options.depth;
        add_latency(&run->latencies, now() - connection->started);
    }
    start_batch(run, connection);
}

static void receive(struct run *run, struct connection *connection)
{
    static unsigned char buffer[READ_SIZE];
    ssize_t count = recv(connection->descriptor, buffer, sizeof buffer, MSG_DONTWAIT);
    if (count < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        fail("recv: %s", strerror(errno));
    }
    if (count == 0)
        fail("the server closed a connection");
    if ((size_t)count > connection->sent - connection->received)
        fail("the server sent more than it was sent");
    if (memcmp(buffer, run->batch.bytes + connection->received, (size_t)count) != 0)
        fail("the server sent something else than it was sent");
    connection->received += (size_t)count;
    if (connection->received == run->batch.length)
        batch_came_back(run, connection);
}

static void turn(struct run *run)
{
    static struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(run->epoll, events, EVENTS_AT_ONCE, SILENCE_MILLISECONDS);
    if (count == 0)
        fail("the server was silent for %d s", SILENCE_MILLISECONDS / 1000);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int index = 0; index < count; index++) {
        struct connection *connection = events[index].data.ptr;
        if (events[index].events & EPOLLOUT)
            send_rest(run, connection);
        if (events[index].events & ~(uint32_t)EPOLLOUT)
            receive(run, connection);
    }
}

static int compare_floats(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static double percentile(const struct latencies *sorted, double share)
{
    return sorted->microseconds[(size_t)((double)(sorted->count - 1) * share)];
}

static void print_result(struct run *run, double seconds, struct processor_time before, struct processor_time after)
{
    double total = after.total - before.total;
    unsigned long user = after.user_ticks - before.user_ticks;
    unsigned long system = after.system_ticks - before.system_ticks;
    struct latencies *latencies = &run->latencies;
    qsort(latencies->microseconds, latencies->count, sizeof *latencies->microseconds, compare_floats);
    printf("{\"messages\": %lu, \"seconds\": %.6f, \"total\": %.9f, ", run->messages, seconds, total);
    /* In a run shorter than a tick there is no sample to share the total by. */
    if (user + system == 0)
        printf("\"user\": null, \"system\": null, ");
    else
        printf("\"user\": %.9f, \"system\": %.9f, ", total * (double)user / (double)(user + system),
               total * (double)system / (double)(user + system));
    printf("\"median\": %.1f, \"p99\": %.1f}\n", percentile(latencies, 0.5), percentile(latencies, 0.99));
}

int main(int count, char **values)
{
    struct run run = {.options = parse_options(count, values)};
    struct options *options = &run.options;
    run.batch = make_batch(options);
    run.unserved = run.busy = options->connections;
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (run.epoll < 0)
        fail("epoll_create1: %s", strerror(errno));
    run.connections = allocate(NULL, (size_t)options->connections * sizeof *run.connections);
    memset(run.connections, 0, (size_t)options->connections * sizeof *run.connections);
    for (int index = 0; index < options->connections; index++)
        open_connection(&run, &run.connections[index]);

    double warm = now() + options->seconds / 5;
    for (int index = 0; index < options->connections; index++)
        start_batch(&run, &run.connections[index]);
    while (now() < warm || run.unserved > 0)
        turn(&run);

    run.phase = MEASURING;
    struct processor_time before = read_processor_time(options->pid);
    double began = now();
    while (now() < began + options->seconds || run.messages == 0)
        turn(&run);
    struct processor_time after = read_processor_time(options->pid);
    double seconds = now() - began;

    run.phase = ENDING;
    while (run.busy > 0)
        turn(&run);
    print_result(&run, seconds, before, after);
    return 0;
}
