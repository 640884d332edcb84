/* What the example leaves out: metadata over TCP and in parts, cancel, deadlines, the event fd,
 * progress by the caller, counters. */
#include <nixl_rs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT(status, call)                                                                       \
    do {                                                                                           \
        nixl_rs_status got_ = (call);                                                              \
        if (got_ != (status)) {                                                                    \
            fprintf(stderr, "line %d: %s gave %s: %s\n", __LINE__, #call,                          \
                    nixl_rs_status_name(got_), nixl_rs_last_error());                              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define OK(call) EXPECT(NIXL_RS_SUCCESS, call)
#define MUST(good)                                                                                 \
    do {                                                                                           \
        if (!(good)) {                                                                             \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #good);                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define BIG ((size_t)64 << 20)
#define SMALL ((size_t)4096)
#define PATIENCE 20000u

static nixl_rs_agent *start(const char *name, const char *config) {
    nixl_rs_agent_options options = NIXL_RS_INIT(nixl_rs_agent_options);
    nixl_rs_agent *agent;
    options.config = config;
    OK(nixl_rs_agent_create(name, &options, &agent));
    return agent;
}

/* Frees the blob; its text stays until the next call. */
static const char *text(nixl_rs_blob *blob) {
    static char copy[4096];
    const void *data;
    size_t len;
    OK(nixl_rs_blob_get(blob, &data, &len));
    MUST(len < sizeof copy);
    memcpy(copy, data, len + 1);
    OK(nixl_rs_blob_free(blob));
    return copy;
}

static unsigned char *memory(nixl_rs_region *region) {
    nixl_rs_region_info_t info = NIXL_RS_INIT(nixl_rs_region_info_t);
    OK(nixl_rs_region_info(region, &info));
    return (unsigned char *)(uintptr_t)info.addr;
}

static nixl_rs_list *one(const void *memory, size_t len) {
    nixl_rs_desc block = {(uintptr_t)memory, len, 0};
    nixl_rs_list *list;
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &list));
    OK(nixl_rs_list_push(list, &block, 1));
    return list;
}

static nixl_rs_request *read_from(nixl_rs_agent *agent, nixl_rs_region *here, const char *peer,
                                  nixl_rs_region *there, size_t len) {
    nixl_rs_list *local = one(memory(here), len), *remote = one(memory(there), len);
    nixl_rs_request *request;
    OK(nixl_rs_request_create(agent, NIXL_RS_READ, local, peer, remote, &request));
    OK(nixl_rs_list_free(local));
    OK(nixl_rs_list_free(remote));
    return request;
}

/* `a` and `b` learn of each other through a's listener, which wants a key. */
static void exchange(nixl_rs_agent *a, nixl_rs_agent *b) {
    static const unsigned char key[32] = {1, 2, 3};
    nixl_rs_exchange_options with_key = NIXL_RS_INIT(nixl_rs_exchange_options), short_key;
    nixl_rs_listener *listener;
    nixl_rs_blob *blob;
    char address[64];
    with_key.key = key;
    with_key.key_len = sizeof key;
    short_key = with_key;
    short_key.key_len = 3;
    EXPECT(NIXL_RS_ERR_INVALID_PARAM, nixl_rs_listener_start(a, NULL, &short_key, &listener));
    EXPECT(NIXL_RS_ERR_NOT_ALLOWED, nixl_rs_listener_start(a, "0.0.0.0:0", NULL, &listener));
    OK(nixl_rs_listener_start(a, NULL, &with_key, &listener));
    OK(nixl_rs_listener_address(listener, &blob));
    snprintf(address, sizeof address, "%s", text(blob));
    EXPECT(NIXL_RS_ERR_UNAUTHENTICATED, nixl_rs_fetch_metadata(b, address, NULL, NULL));
    OK(nixl_rs_fetch_metadata(b, address, &with_key, &blob));
    MUST(strcmp(text(blob), "a") == 0);
    OK(nixl_rs_send_metadata(b, address, &with_key));
    OK(nixl_rs_agent_peers(a, &blob));
    MUST(strcmp(text(blob), "b") == 0);
    OK(nixl_rs_invalidate_metadata(b, address, &with_key));
    OK(nixl_rs_agent_peers(a, &blob));
    MUST(strcmp(text(blob), "") == 0);
    OK(nixl_rs_send_metadata(b, address, &with_key));
    OK(nixl_rs_listener_stop(listener, PATIENCE));
    EXPECT(NIXL_RS_ERR_REMOTE_DISCONNECT, nixl_rs_fetch_metadata(b, address, &with_key, NULL));
}

/* A region that was registered later is told alone, and withdrawn alone. */
static void parts(nixl_rs_agent *a, nixl_rs_agent *b) {
    nixl_rs_region *late, *here;
    nixl_rs_list *list;
    nixl_rs_remote *remote;
    nixl_rs_blob *blob;
    const void *data;
    size_t len;
    OK(nixl_rs_allocate(a, SMALL, NULL, &late));
    OK(nixl_rs_allocate(b, SMALL, NULL, &here));
    list = one(memory(late), SMALL);
    EXPECT(NIXL_RS_ERR_NOT_FOUND, nixl_rs_prepare_remote(b, "a", list, &remote));
    const nixl_rs_region *regions[] = {late};
    OK(nixl_rs_partial_metadata(a, regions, 1, 0, &blob));
    OK(nixl_rs_blob_get(blob, &data, &len));
    OK(nixl_rs_load_metadata(b, data, len, NULL));
    OK(nixl_rs_blob_free(blob));
    OK(nixl_rs_prepare_remote(b, "a", list, &remote));
    OK(nixl_rs_remote_free(remote));
    OK(nixl_rs_withdrawal(a, regions, 1, &blob));
    OK(nixl_rs_blob_get(blob, &data, &len));
    OK(nixl_rs_load_metadata(b, data, len, NULL));
    OK(nixl_rs_blob_free(blob));
    EXPECT(NIXL_RS_ERR_NOT_FOUND, nixl_rs_prepare_remote(b, "a", list, &remote));
    OK(nixl_rs_list_free(list));
    EXPECT(NIXL_RS_ERR_INVALID_PARAM, nixl_rs_partial_metadata(a, NULL, 1, 0, &blob));
    OK(nixl_rs_deregister(late, PATIENCE));
    OK(nixl_rs_deregister(here, PATIENCE));
}

/* `b` makes progress only when it is called, so what is posted is still to do. */
static void ends(nixl_rs_agent *b, nixl_rs_region *here, nixl_rs_region *there) {
    nixl_rs_post_options soon = NIXL_RS_INIT(nixl_rs_post_options);
    nixl_rs_request_info_t info = NIXL_RS_INIT(nixl_rs_request_info_t);
    nixl_rs_request *request = read_from(b, here, "a", there, BIG);
    nixl_rs_blob *blob;
    size_t at;
    EXPECT(NIXL_RS_IN_PROG, nixl_rs_request_post(request, NULL));
    EXPECT(NIXL_RS_ERR_REPOST_ACTIVE, nixl_rs_request_post(request, NULL));
    EXPECT(NIXL_RS_IN_PROG, nixl_rs_request_wait(request, 0));
    OK(nixl_rs_request_cancel(request));
    EXPECT(NIXL_RS_ERR_CANCELED, nixl_rs_request_wait(request, PATIENCE));
    EXPECT(NIXL_RS_ERR_CANCELED, nixl_rs_request_status(request));
    soon.deadline_ms = 1;
    EXPECT(NIXL_RS_IN_PROG, nixl_rs_request_post(request, &soon));
    EXPECT(NIXL_RS_ERR_TIMEOUT, nixl_rs_request_wait(request, PATIENCE));
    memset(memory(here), 0, BIG);
    EXPECT(NIXL_RS_IN_PROG, nixl_rs_request_post(request, NULL));
    OK(nixl_rs_request_wait(request, PATIENCE));
    for (at = 0; at < BIG; at += 8)
        MUST(*(uint64_t *)(memory(here) + at) == at + 1);
    OK(nixl_rs_request_receipt_text(request, &blob));
    MUST(strncmp(text(blob), "path tcp\nlanes ", 15) == 0);
    OK(nixl_rs_request_info(request, &info));
    MUST(info.bytes == BIG && info.moved == BIG && info.descriptors == 1 && info.flags == 0);
    OK(nixl_rs_request_free(request));
    /* Released while active. */
    request = read_from(b, here, "a", there, BIG);
    EXPECT(NIXL_RS_IN_PROG, nixl_rs_request_post(request, NULL));
    OK(nixl_rs_request_free(request));
}

static void events(nixl_rs_agent *a, nixl_rs_agent *b) {
    nixl_rs_notification *got;
    uint64_t count;
    int fd, did;
    OK(nixl_rs_agent_event_fd(a, &fd));
    OK(nixl_rs_notify(b, "a", "", 0));
    struct pollfd wait = {fd, POLLIN, 0};
    do {
        OK(nixl_rs_agent_progress(b, 1000, &did));
        OK(nixl_rs_agent_progress(b, 0, NULL));
    } while (poll(&wait, 1, 1) == 0);
    MUST(read(fd, &count, sizeof count) == sizeof count && count > 0);
    OK(nixl_rs_take_notification(a, PATIENCE, &got));
    MUST(got != NULL);
    nixl_rs_notification_view view = NIXL_RS_INIT(nixl_rs_notification_view);
    OK(nixl_rs_notification_get(got, &view));
    MUST(view.len == 0 && view.verified == 1 && strcmp(view.from, "b") == 0);
    OK(nixl_rs_agent_generation(b, &count));
    MUST(view.generation == count);
    OK(nixl_rs_notification_free(got));
    OK(nixl_rs_take_notification(a, 0, &got));
    MUST(got == NULL);
}

static void counters(nixl_rs_agent *a, nixl_rs_agent *b) {
    nixl_rs_counters all = NIXL_RS_INIT(nixl_rs_counters);
    nixl_rs_path_counters paths[8];
    size_t count, i;
    uint64_t bytes = 0;
    OK(nixl_rs_agent_counters(a, &all));
    MUST(all.notifications_received == 1 && all.regions >= 1);
    OK(nixl_rs_agent_path_counters(b, NULL, 0, &count));
    MUST(count >= 1 && count <= 8);
    memset(paths, 0, sizeof paths);
    EXPECT(NIXL_RS_ERR_INVALID_PARAM, nixl_rs_agent_path_counters(b, paths, 8, &count));
    paths[0].size = sizeof *paths;
    OK(nixl_rs_agent_path_counters(b, paths, 8, &count));
    for (i = 0; i < count; i++)
        if (strcmp(paths[i].peer, "a") == 0 && paths[i].op == NIXL_RS_READ)
            bytes += paths[i].bytes;
    MUST(bytes == BIG);
}

int main(void) {
    nixl_rs_agent *a = start("a", "backends = [\"tcp\"]");
    nixl_rs_agent *b = start("b", "backends = [\"tcp\"]\n[agent]\ncopy_threads = 0");
    nixl_rs_region *there, *here;
    nixl_rs_blob *blob;
    size_t at;
    MUST(strchr(nixl_rs_version(), '.') != NULL);
    MUST(strcmp(nixl_rs_status_name(12345), "NIXL_RS_BAD_STATUS") == 0);
    OK(nixl_rs_allocate(a, BIG, NULL, &there));
    OK(nixl_rs_allocate(b, BIG, NULL, &here));
    for (at = 0; at < BIG; at += 8)
        *(uint64_t *)(memory(there) + at) = at + 1;
    exchange(a, b);
    OK(nixl_rs_agent_connect(b, "a", PATIENCE));
    OK(nixl_rs_agent_prove(b, "a", NIXL_RS_READ, PATIENCE));
    parts(a, b);
    ends(b, here, there);
    events(a, b);
    counters(a, b);
    OK(nixl_rs_agent_name(b, &blob));
    MUST(strcmp(text(blob), "b") == 0);
    OK(nixl_rs_agent_remove_peer(b, "a"));
    EXPECT(NIXL_RS_ERR_NOT_FOUND, nixl_rs_agent_remove_peer(b, "a"));
    EXPECT(NIXL_RS_ERR_INVALID_PARAM, nixl_rs_agent_create("x", &(nixl_rs_agent_options){
        sizeof(nixl_rs_agent_options), "[policy]\nmode = \"fast\""}, &a));
    OK(nixl_rs_deregister(here, PATIENCE));
    OK(nixl_rs_deregister(there, PATIENCE));
    OK(nixl_rs_agent_destroy(b, PATIENCE));
    OK(nixl_rs_agent_destroy(a, PATIENCE));
    printf("all is well\n");
    return 0;
}
