/* A provider that does nothing: answers every HTTP/1.1 request with the same bytes, and keeps its connections.
 *
 * Usage: upstream ANSWER
 *
 * ANSWER is a file with the answer as it is sent, its header included. Listens on a free port of 127.0.0.1 and prints
 * it. Reads a request to its end, whether its body has a content-length or is chunked; runs until it is killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { INPUT = 1 << 17, EVENTS = 64 };

typedef struct {
    int fd;
    size_t in;
    char input[INPUT + 1];
} Connection;

static char answer[1 << 17];
static size_t answer_length;

static void die(const char *what) {
    fprintf(stderr, "upstream: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length) && line[2 + length] == ':') return line + 3 + length;
    return NULL;
}

/* The first byte after a request; NULL: there is more of it to come. */
static char *end_of_request(Connection *c) {
    char *end = c->input + c->in, *p = memmem(c->input, c->in, "\r\n\r\n", 4);
    if (!p) return NULL;
    const char *length = header(c->input, "content-length");
    p += 4;
    if (!header(c->input, "transfer-encoding")) {
        p += length ? strtoul(length, NULL, 10) : 0;
        return p <= end ? p : NULL;
    }
    for (;;) {
        char *line = memmem(p, (size_t)(end - p), "\r\n", 2);
        if (!line) return NULL;
        unsigned long chunk = strtoul(p, NULL, 16);
        p = line + 2;
        if ((size_t)(end - p) < chunk + 2) return NULL;
        p += chunk + 2;
        if (!chunk) return p;
    }
}

/* 0: the connection has ended. */
static int serve(Connection *c) {
    ssize_t n = read(c->fd, c->input + c->in, INPUT - c->in);
    if (n <= 0) return n < 0 && (errno == EAGAIN || errno == EINTR);
    c->in += (size_t)n;
    c->input[c->in] = 0;
    for (char *end; (end = end_of_request(c));) {
        if (write(c->fd, answer, answer_length) != (ssize_t)answer_length) return 0; /* it fits into the buffer */
        c->in -= (size_t)(end - c->input);
        memmove(c->input, end, c->in + 1);
    }
    return c->in < INPUT;
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!f) die("ANSWER");
    answer_length = fread(answer, 1, sizeof answer, f);
    fclose(f);

    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), events = epoll_create1(0), one = 1;
    struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = NULL}, found[EVENTS];
    if (listening < 0 || events < 0) die("socket");
    if (bind(listening, (struct sockaddr *)&address, size) || listen(listening, 1024)) die("bind");
    if (getsockname(listening, (struct sockaddr *)&address, &size)) die("getsockname");
    if (epoll_ctl(events, EPOLL_CTL_ADD, listening, &wanted)) die("epoll");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(events, found, EVENTS, -1);
        if (count < 0 && errno != EINTR) die("epoll");
        for (int i = 0; i < count; i++) {
            Connection *c = found[i].data.ptr;
            if (c) {
                if (!serve(c)) close(c->fd), free(c);
                continue;
            }
            int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK);
            if (fd < 0) continue;
            if (!(c = malloc(sizeof *c))) die("memory");
            c->fd = fd, c->in = 0, wanted.data.ptr = c;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            if (epoll_ctl(events, EPOLL_CTL_ADD, fd, &wanted)) die("epoll");
        }
    }
}
