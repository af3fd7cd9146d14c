/* Callers of a unary gRPC method over plaintext HTTP/2: each sends its next call when its last one is answered.
 *
 * Usage: load HOST PORT CONNECTIONS STREAMS SECONDS BODIES PATH [UNIQUE [PATH2 TAIL2]]
 *
 * BODIES is a file of messages (length in 4 bytes, big-endian, then the message); callers take them in turn.
 * UNIQUE, if not "-", begins the request id of every call: field 1 with this prefix and a number is added to the
 * message. With PATH2, every call of PATH that is granted (field 1 of the answer is 1) is followed by a call of PATH2
 * whose message is field 1 = the answer's field 2, then the bytes of the file TAIL2.
 *
 * Every answer is read: it counts only with grpc-status 0 and a message. Prints one JSON object. The program never
 * waits but in poll(2), and says how long it ran, and (on Linux) how long it was ready to run without getting a core.
 *
 * HTTP/2 as far as it is needed: headers are sent without compression, and the server is told to use no table, so
 * that each of its header blocks can be read by itself. A server that pads, pushes or continues headers is an error.
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
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, RST = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };
enum { FRAME_MAX = 16384, INPUT = 1 << 18, ANSWER_MAX = 1 << 16, KINDS = 8, METHODS = 2 };
enum { WINDOW_STREAM = 1 << 20, WINDOW_CONNECTION = 1 << 30 };

typedef struct {
    uint32_t id, length; /* id 0: free */
    int method, ok;
    uint64_t began_ns;
    uint8_t answer[ANSWER_MAX];
} Stream;

typedef struct {
    int fd;
    uint32_t next_id, received;
    int64_t window;
    size_t in, out, sent, room;
    uint8_t *input, *output;
    Stream *streams;
} Connection;

typedef struct {
    uint64_t answers[KINDS], failed, samples, size;
    uint32_t *tenth_us;
    uint8_t headers[512];
    size_t headers_length;
} Method;

static Method methods[METHODS];
static uint8_t **bodies, tail[256];
static uint32_t *body_lengths, body_count;
static size_t tail_length;
static const char *unique;
static uint64_t started, now, ends_ns;
static int stream_count, open_calls, two_methods;

static void die(const char *what) {
    fprintf(stderr, "load: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t read32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint8_t *write32(uint8_t *p, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) *p++ = (uint8_t)(value >> shift);
    return p;
}

static uint8_t *grow(Connection *c, size_t length) {
    if (c->out + length > c->room) {
        c->room = 2 * (c->out + length);
        if (!(c->output = realloc(c->output, c->room))) die("memory");
    }
    uint8_t *p = c->output + c->out;
    c->out += length;
    return p;
}

static void put_frame(Connection *c, int type, int flags, uint32_t stream, const void *payload, size_t length) {
    uint8_t *p = grow(c, 9 + length);
    *p++ = (uint8_t)(length >> 16), *p++ = (uint8_t)(length >> 8), *p++ = (uint8_t)length;
    *p++ = (uint8_t)type, *p++ = (uint8_t)flags;
    p = write32(p, stream);
    if (length) memcpy(p, payload, length);
}

/* ---------------------------------------------------------------- requests */

static uint8_t *put_text(uint8_t *p, const char *text) {
    *p++ = (uint8_t)strlen(text); /* below 127, not Huffman-coded */
    return memcpy(p, text, strlen(text)), p + strlen(text);
}

static void make_headers(Method *m, const char *authority, const char *path) {
    uint8_t *p = m->headers;
    if (strlen(path) > 100 || strlen(authority) > 100) die("a path or an address is too long");
    *p++ = 0x83, *p++ = 0x86;                            /* :method POST, :scheme http */
    *p++ = 0x04, p = put_text(p, path);                  /* literals without indexing */
    *p++ = 0x01, p = put_text(p, authority);
    *p++ = 0x0f, *p++ = 0x10, p = put_text(p, "application/grpc");
    *p++ = 0x00, p = put_text(p, "te"), p = put_text(p, "trailers");
    m->headers_length = (size_t)(p - m->headers);
}

static void call(Connection *c, Stream *s, int method, const uint8_t *message, size_t length, const uint8_t *more,
                 size_t more_length) {
    uint8_t buffer[5 + 4096], *p = buffer;
    if (length + more_length > 4096) die("a message is too long");
    *p++ = 0, p = write32(p, (uint32_t)(length + more_length));
    memcpy(p, message, length), p += length;
    memcpy(p, more, more_length), p += more_length;
    s->id = c->next_id, s->method = method, s->length = 0, s->ok = 0, s->began_ns = now;
    c->next_id += 2, c->window -= p - buffer, open_calls++;
    put_frame(c, HEADERS, END_HEADERS, s->id, methods[method].headers, methods[method].headers_length);
    put_frame(c, DATA, END_STREAM, s->id, buffer, (size_t)(p - buffer));
}

static void start(Connection *c, Stream *s) {
    char id[128];
    uint32_t i = (uint32_t)(started % body_count);
    int length = 0;
    if (now >= ends_ns || c->window < FRAME_MAX) return; /* without room: when the server gives some */
    if (unique) {
        length = snprintf(id + 2, sizeof id - 2, "%s%016llx", unique, (unsigned long long)started) + 2;
        id[0] = 0x0a, id[1] = (char)(length - 2);
    }
    started++;
    call(c, s, 0, bodies[i], body_lengths[i], (uint8_t *)id, (size_t)length);
}

static void start_idle(Connection *c) {
    for (int i = 0; i < stream_count; i++)
        if (!c->streams[i].id) start(c, &c->streams[i]);
}

/* ---------------------------------------------------------------- answers */

static uint64_t varint(const uint8_t **p, const uint8_t *end) {
    uint64_t value = 0;
    for (int shift = 0; *p < end && shift < 64; shift += 7) {
        uint8_t byte = *(*p)++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) break;
    }
    return value;
}

/* An HPACK integer; the first byte has `bits` of it. */
static size_t hpack_integer(const uint8_t **p, const uint8_t *end, int bits) {
    size_t most = (1u << bits) - 1, value = *(*p)++ & most;
    return value < most ? value : most + (size_t)varint(p, end);
}

static const uint8_t *hpack_text(const uint8_t **p, const uint8_t *end, size_t *length) {
    if (*p >= end) die("a header block is cut off");
    *length = hpack_integer(p, end, 7);
    const uint8_t *text = *p;
    if (*length > (size_t)(end - text)) die("a header block is cut off");
    *p += *length;
    return text;
}

/* Whether a header block says grpc-status 0, plainly or Huffman-coded. */
static int says_ok(const uint8_t *p, const uint8_t *end) {
    static const uint8_t coded[] = {0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f};
    int ok = 0;
    while (p < end) {
        uint8_t first = *p;
        size_t index, name_length = 0, length;
        const uint8_t *name = NULL;
        if (first & 0x80) { hpack_integer(&p, end, 7); continue; }
        if ((first & 0xe0) == 0x20) { hpack_integer(&p, end, 5); continue; }
        index = hpack_integer(&p, end, first & 0x40 ? 6 : 4);
        if (!index) name = hpack_text(&p, end, &name_length);
        const uint8_t *value = hpack_text(&p, end, &length);
        if (name && ((name_length == sizeof coded && !memcmp(name, coded, sizeof coded)) ||
                     (name_length == 11 && !memcmp(name, "grpc-status", 11))))
            ok = length == 1 && (*value == '0' || *value == 0x07);
    }
    return ok;
}

static void record(Method *m, uint64_t took_ns) {
    if (m->samples == m->size) {
        m->size = m->size ? 2 * m->size : 1 << 16;
        if (!(m->tenth_us = realloc(m->tenth_us, m->size * sizeof *m->tenth_us))) die("memory");
    }
    m->tenth_us[m->samples++] = (uint32_t)(took_ns / 100);
}

/* A call has ended: count it, and make the next one. */
static void finish(Connection *c, Stream *s) {
    Method *m = &methods[s->method];
    const uint8_t *p = s->answer + 5, *end = s->answer + s->length, *name = NULL;
    uint64_t kind = 0, name_length = 0;
    now = clock_ns(), s->id = 0, open_calls--;
    if (!s->ok || s->length < 5 || s->answer[0]) {
        m->failed++;
    } else {
        if (p < end && *p == 0x08) p++, kind = varint(&p, end);
        if (p < end && *p == 0x12) p++, name_length = varint(&p, end), name = p;
        m->answers[kind < KINDS ? kind : 0]++;
        record(m, now - s->began_ns);
    }
    if (two_methods && s->method == 0 && name && kind == 1 && name_length < 127 && name + name_length <= end) {
        uint8_t field[128] = {0x0a, (uint8_t)name_length};
        memcpy(field + 2, name, name_length);
        call(c, s, 1, field, name_length + 2, tail, tail_length);
    } else {
        start(c, s);
    }
}

static Stream *stream_of(Connection *c, uint32_t id) {
    for (int i = 0; i < stream_count; i++)
        if (c->streams[i].id == id) return &c->streams[i];
    return NULL;
}

static void on_data(Connection *c, Stream *s, const uint8_t *payload, size_t length) {
    if (s && s->length + length <= ANSWER_MAX) memcpy(s->answer + s->length, payload, length), s->length += length;
    if ((c->received += (uint32_t)length) > WINDOW_CONNECTION / 2) {
        uint8_t more[4];
        write32(more, c->received);
        put_frame(c, WINDOW, 0, 0, more, 4);
        c->received = 0;
    }
}

static void on_frame(Connection *c, int type, int flags, uint32_t id, const uint8_t *payload, size_t length) {
    Stream *s = id ? stream_of(c, id) : NULL;
    if ((type == DATA || type == HEADERS) && flags & 0x28) die("padding and priorities are not understood");
    if (type == DATA) on_data(c, s, payload, length);
    if (type == HEADERS && !(flags & END_HEADERS)) die("continued headers are not understood");
    if (type == HEADERS && s && flags & END_STREAM) s->ok = says_ok(payload, payload + length);
    if (type == SETTINGS && !(flags & ACK)) put_frame(c, SETTINGS, ACK, 0, NULL, 0);
    if (type == PING && !(flags & ACK)) put_frame(c, PING, ACK, 0, payload, length);
    if (type == WINDOW && !id && length == 4) c->window += read32(payload) & 0x7fffffff, start_idle(c);
    if (type == GOAWAY) errno = 0, die("the server closes a connection");
    if (s && (type == RST || ((type == DATA || type == HEADERS) && flags & END_STREAM))) finish(c, s);
}

/* ---------------------------------------------------------------- connections */

static void read_frames(Connection *c) {
    ssize_t n = read(c->fd, c->input + c->in, INPUT - c->in);
    if (n == 0) errno = 0, die("the server closed a connection");
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        die("read");
    }
    c->in += (size_t)n;
    size_t at = 0;
    while (c->in - at >= 9) {
        const uint8_t *frame = c->input + at;
        size_t length = (size_t)frame[0] << 16 | (size_t)frame[1] << 8 | frame[2];
        if (length > FRAME_MAX) errno = 0, die("a frame is too long");
        if (c->in - at < 9 + length) break;
        on_frame(c, frame[3], frame[4], read32(frame + 5) & 0x7fffffff, frame + 9, length);
        at += 9 + length;
    }
    memmove(c->input, c->input + at, c->in - at);
    c->in -= at;
}

static void write_frames(Connection *c) {
    while (c->sent < c->out) {
        ssize_t n = write(c->fd, c->output + c->sent, c->out - c->sent);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n < 0) die("write");
        c->sent += (size_t)n;
    }
    c->sent = c->out = 0;
}

static void open_connection(Connection *c, const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    static const uint8_t settings[] = {0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4, 0, WINDOW_STREAM >> 16, 0, 0};
    uint8_t more[4];
    int one = 1;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) errno = 0, die("HOST must be an IPv4 address");
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->next_id = 1, c->window = 65535;
    c->input = malloc(INPUT), c->streams = calloc((size_t)stream_count, sizeof(Stream));
    if (!c->input || !c->streams) die("memory");
    memcpy(grow(c, 24), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    put_frame(c, SETTINGS, 0, 0, settings, sizeof settings); /* no table, no push, room for answers */
    write32(more, WINDOW_CONNECTION);
    put_frame(c, WINDOW, 0, 0, more, 4);
}

static void read_bodies(const char *file) {
    FILE *f = fopen(file, "rb");
    uint8_t head[4];
    if (!f) die(file);
    while (fread(head, 1, 4, f) == 4) {
        uint32_t length = read32(head);
        bodies = realloc(bodies, (body_count + 1) * sizeof *bodies);
        body_lengths = realloc(body_lengths, (body_count + 1) * sizeof *body_lengths);
        if (!bodies || !body_lengths || !(bodies[body_count] = malloc(length + 1))) die("memory");
        if (fread(bodies[body_count], 1, length, f) != length) errno = 0, die("BODIES is cut off");
        body_lengths[body_count++] = length;
    }
    fclose(f);
    if (!body_count) errno = 0, die("BODIES is empty");
}

/* ---------------------------------------------------------------- the report */

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(const Method *m, double q) {
    return m->samples ? m->tenth_us[(uint64_t)(q * (double)(m->samples - 1))] / 1e4 : 0;
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
    printf("{\"seconds\": %.6f, \"cpu_s\": %.6f, \"starved_s\": %.6f, \"methods\": [", seconds, cpu_s, starved);
    for (int i = 0; i <= two_methods; i++) {
        Method *m = &methods[i];
        qsort(m->tenth_us, m->samples, sizeof *m->tenth_us, by_value);
        printf("%s{\"answers\": [", i ? ", " : "");
        for (int k = 0; k < KINDS; k++) printf("%s%llu", k ? ", " : "", (unsigned long long)m->answers[k]);
        printf("], \"failed\": %llu, \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f}",
               (unsigned long long)m->failed, quantile_ms(m, .5), quantile_ms(m, .9), quantile_ms(m, .99),
               quantile_ms(m, 1));
    }
    printf("]}\n");
}

int main(int argc, char **argv) {
    char authority[128];
    if (argc < 8) errno = 0, die("HOST PORT CONNECTIONS STREAMS SECONDS BODIES PATH [UNIQUE [PATH2 TAIL2]]");
    int port = atoi(argv[2]), connection_count = atoi(argv[3]);
    stream_count = atoi(argv[4]);
    if (connection_count < 1 || connection_count > 1024 || stream_count < 1) errno = 0, die("bad number of callers");
    read_bodies(argv[6]);
    snprintf(authority, sizeof authority, "%s:%d", argv[1], port);
    make_headers(&methods[0], authority, argv[7]);
    unique = argc > 8 && strcmp(argv[8], "-") && strlen(argv[8]) <= 100 ? argv[8] : NULL;
    if (argc > 10) {
        FILE *f = fopen(argv[10], "rb");
        if (!f) die(argv[10]);
        tail_length = fread(tail, 1, sizeof tail, f);
        fclose(f);
        make_headers(&methods[1], authority, argv[9]);
        two_methods = 1;
    }
    Connection *connections = calloc((size_t)connection_count, sizeof(Connection));
    struct pollfd *polls = calloc((size_t)connection_count, sizeof(struct pollfd));
    if (!connections || !polls) die("memory");
    for (int i = 0; i < connection_count; i++) open_connection(&connections[i], argv[1], port);

    double starved = starved_s();
    uint64_t began = now = clock_ns();
    ends_ns = began + (uint64_t)(atof(argv[5]) * 1e9);
    for (int i = 0; i < connection_count; i++) start_idle(&connections[i]);
    while (open_calls || now < ends_ns) {
        for (int i = 0; i < connection_count; i++) {
            write_frames(&connections[i]);
            polls[i].fd = connections[i].fd;
            polls[i].events = (short)(POLLIN | (connections[i].out ? POLLOUT : 0));
        }
        if (poll(polls, (nfds_t)connection_count, 100) < 0 && errno != EINTR) die("poll");
        now = clock_ns();
        if (now > ends_ns + 10000000000u) errno = 0, die("calls were not answered within 10 seconds");
        for (int i = 0; i < connection_count; i++)
            if (polls[i].revents) read_frames(&connections[i]);
    }
    report((double)(now - began) / 1e9, starved_s() - starved);
    return 0;
}
