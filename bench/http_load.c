/* Clients of an HTTP/1.1 server that keep their connections: each sends the same request over and over.
 *
 * Usage: http_load HOST PORT CONNECTIONS SECONDS RATE REQUEST [HEADER]
 *
 * REQUEST is a file with the request as it is sent, its header included. RATE 0: a closed loop; every connection sends
 * its next request when its last one is answered. Else an open loop: requests are due at even distances, so many a
 * second, whether or not earlier ones are answered. One that is due while every connection is busy waits for a free
 * one, and its latency is counted from the time at which it was due, so that a slow server cannot slow the clock
 * that it is measured by.
 *
 * An answer counts if its status is 200 and, where HEADER is given, it has a header of that name. Every answer is read
 * to its last byte (content-length or chunked). Prints one JSON object. The program never waits but in ppoll(2), and
 * says how long it ran, how long it was ready to run without getting a core (Linux), and how late it sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { INPUT = 1 << 17, CONNECTIONS_MAX = 1024 };

typedef struct {
    int fd, busy;
    uint64_t due_ns;
    size_t in, sent;
    char input[INPUT + 1];
} Connection;

typedef struct {
    uint64_t count, size;
    uint32_t *tenth_us;
} Samples;

static Connection *connections;
static int connection_count, busy;
static char *request;
static size_t request_length;
static const char *wanted;
static uint64_t now, ends_ns, gap_ns, next_due_ns, good, refused, lacking;
static Samples took, late;

static void die(const char *what) {
    fprintf(stderr, "http_load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void record(Samples *s, uint64_t ns) {
    if (s->count == s->size) {
        s->size = s->size ? 2 * s->size : 1 << 16;
        if (!(s->tenth_us = realloc(s->tenth_us, s->size * sizeof *s->tenth_us))) die("memory");
    }
    s->tenth_us[s->count++] = (uint32_t)(ns / 100);
}

/* ---------------------------------------------------------------- requests */

static void write_request(Connection *c) {
    while (c->sent < request_length) {
        ssize_t n = write(c->fd, request + c->sent, request_length - c->sent);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) die("write");
        c->sent += (size_t)n;
    }
}

static void begin(Connection *c, uint64_t due_ns) {
    c->busy = 1, c->due_ns = due_ns, c->sent = 0, c->in = 0, busy++;
    write_request(c);
}

/* Send what is due, as far as there are free connections. */
static void send_due(void) {
    for (int i = 0; i < connection_count; i++) {
        Connection *c = &connections[i];
        if (c->busy) continue;
        if (!gap_ns) {
            if (now < ends_ns) begin(c, now);
            continue;
        }
        if (next_due_ns > now || next_due_ns >= ends_ns) return;
        record(&late, now - next_due_ns);
        begin(c, next_due_ns);
        next_due_ns += gap_ns;
        now = clock_ns();
    }
}

/* ---------------------------------------------------------------- answers */

/* The value of a header, NULL if there is none; `head` ends with an empty line. */
static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') {
            line += 3 + length;
            return line + strspn(line, " ");
        }
    return NULL;
}

/* Whether a chunked body is whole. */
static int chunks_end(const char *p, const char *end) {
    while (p < end) {
        char *after;
        unsigned long length = strtoul(p, &after, 16);
        const char *line = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!line || after == p) return 0;
        p = line + 2;
        if ((size_t)(end - p) < length + 2) return 0;
        p += length + 2;
        if (!length) return p == end;
    }
    return 0;
}

/* Whether an answer is whole; what it says goes to `status` and `has`. */
static int is_whole(Connection *c, int *status, int *has) {
    c->input[c->in] = 0;
    const char *head_end = memmem(c->input, c->in, "\r\n\r\n", 4);
    if (!head_end) return 0;
    const char *body = head_end + 4, *end = c->input + c->in;
    const char *length = header(c->input, "content-length"), *coding = header(c->input, "transfer-encoding");
    if (strncmp(c->input, "HTTP/1.1 ", 9)) errno = 0, die("the answer is not HTTP/1.1");
    if (coding ? !chunks_end(body, end) : (size_t)(end - body) < (length ? strtoul(length, NULL, 10) : 0)) return 0;
    *status = atoi(c->input + 9);
    *has = !wanted || header(c->input, wanted) != NULL;
    return 1;
}

static void read_answer(Connection *c) {
    ssize_t n = read(c->fd, c->input + c->in, INPUT - c->in);
    int status = 0, has = 0;
    if (n == 0) errno = 0, die(c->in == INPUT ? "an answer is too long" : "the server closed a connection");
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        die("read");
    }
    if (!c->busy) errno = 0, die("an answer to no request");
    c->in += (size_t)n;
    if (!is_whole(c, &status, &has)) return;
    c->busy = 0, busy--;
    now = clock_ns();
    if (status != 200) refused++;
    else if (!has) lacking++;
    else good++, record(&took, now - c->due_ns);
    if (!gap_ns && now < ends_ns) begin(c, now);
}

static void open_connection(Connection *c, const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) errno = 0, die("HOST must be an IPv4 address");
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static void read_request(const char *file) {
    FILE *f = fopen(file, "rb");
    if (!f || !(request = malloc(1 << 20))) die(file);
    request_length = fread(request, 1, 1 << 20, f);
    fclose(f);
    if (!request_length || request_length == 1 << 20) errno = 0, die("REQUEST is empty or too long");
}

/* ---------------------------------------------------------------- the report */

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(const Samples *s, double q) {
    return s->count ? s->tenth_us[(uint64_t)(q * (double)(s->count - 1))] / 1e4 : 0;
}

static double starved_s(void) {
    unsigned long long ran, waited = 0;
    FILE *f = fopen("/proc/self/schedstat", "r");
    if (!f) return 0;
    if (fscanf(f, "%llu %llu", &ran, &waited) != 2) waited = 0;
    fclose(f);
    return (double)waited / 1e9;
}

static void report(double seconds, double starved) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                   (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    qsort(took.tenth_us, took.count, sizeof *took.tenth_us, by_value);
    qsort(late.tenth_us, late.count, sizeof *late.tenth_us, by_value);
    printf("{\"seconds\": %.6f, \"cpu_s\": %.6f, \"starved_s\": %.6f, \"good\": %llu, \"refused\": %llu, "
           "\"lacking\": %llu, ",
           seconds, cpu_s, starved, (unsigned long long)good, (unsigned long long)refused,
           (unsigned long long)lacking);
    printf("\"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, \"late_p50_ms\": %.4f, "
           "\"late_p99_ms\": %.4f}\n",
           quantile_ms(&took, .5), quantile_ms(&took, .9), quantile_ms(&took, .99), quantile_ms(&took, 1),
           quantile_ms(&late, .5), quantile_ms(&late, .99));
}

/* How long to wait for answers: until the next request is due, if it could be sent. */
static struct timespec patience(void) {
    uint64_t ns = 100000000;
    if (gap_ns && busy < connection_count && next_due_ns < ends_ns)
        ns = next_due_ns > now ? next_due_ns - now : 0;
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

int main(int argc, char **argv) {
    if (argc < 7) errno = 0, die("HOST PORT CONNECTIONS SECONDS RATE REQUEST [HEADER]");
    int port = atoi(argv[2]);
    double rate = atof(argv[5]);
    connection_count = atoi(argv[3]);
    if (connection_count < 1 || connection_count > CONNECTIONS_MAX) errno = 0, die("bad number of connections");
    read_request(argv[6]);
    wanted = argc > 7 && *argv[7] ? argv[7] : NULL;
    connections = calloc((size_t)connection_count, sizeof(Connection));
    struct pollfd *polls = calloc((size_t)connection_count, sizeof(struct pollfd));
    if (!connections || !polls) die("memory");
    for (int i = 0; i < connection_count; i++) open_connection(&connections[i], argv[1], port);
    prctl(PR_SET_TIMERSLACK, 1000); /* a wait may end 1 µs late, not the usual 50 */

    double starved = starved_s();
    uint64_t began = next_due_ns = now = clock_ns();
    gap_ns = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    ends_ns = began + (uint64_t)(atof(argv[4]) * 1e9);
    while (busy || (gap_ns ? next_due_ns < ends_ns : now < ends_ns)) {
        send_due();
        for (int i = 0; i < connection_count; i++) {
            Connection *c = &connections[i];
            polls[i].fd = c->fd;
            polls[i].events = (short)(POLLIN | (c->busy && c->sent < request_length ? POLLOUT : 0));
        }
        struct timespec wait = patience();
        if (ppoll(polls, (nfds_t)connection_count, &wait, NULL) < 0 && errno != EINTR) die("poll");
        now = clock_ns();
        if (now > ends_ns + 10000000000u) errno = 0, die("requests were not answered within 10 seconds");
        for (int i = 0; i < connection_count; i++) {
            if (polls[i].revents & POLLOUT) write_request(&connections[i]);
            if (polls[i].revents & ~POLLOUT) read_answer(&connections[i]);
        }
        now = clock_ns();
    }
    report((double)(now - began) / 1e9, starved_s() - starved);
    return 0;
}
