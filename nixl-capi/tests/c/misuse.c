/* What C gets wrong: a status each time, never a crash. */
#include <nixl_rs.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
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
#define BAD(call) EXPECT(NIXL_RS_ERR_INVALID_PARAM, call)

#define LEN 65536u

static nixl_rs_agent_options options = {sizeof(nixl_rs_agent_options), "backends = [\"ipc\"]"};

static nixl_rs_agent *start(const char *name) {
    nixl_rs_agent *agent = NULL;
    OK(nixl_rs_agent_create(name, &options, &agent));
    return agent;
}

static void handles(nixl_rs_agent *agent) {
    nixl_rs_list *list, *gone;
    nixl_rs_blob *blob = NULL;
    uint64_t n;
    size_t i;
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &list));
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &gone));
    OK(nixl_rs_list_free(gone));
    BAD(nixl_rs_list_free(gone));
    void *wrong[] = {NULL, gone, agent, &n, (void *)UINTPTR_MAX, (void *)1};
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        nixl_rs_request_info_t info = NIXL_RS_INIT(nixl_rs_request_info_t);
        BAD(nixl_rs_list_len(wrong[i], &n));
        BAD(nixl_rs_request_post(wrong[i], NULL));
        BAD(nixl_rs_request_status(wrong[i]));
        BAD(nixl_rs_request_wait(wrong[i], 0));
        BAD(nixl_rs_request_cancel(wrong[i]));
        BAD(nixl_rs_request_info(wrong[i], &info));
        BAD(nixl_rs_local_len(wrong[i], &n));
        BAD(nixl_rs_remote_len(wrong[i], &n));
        if (wrong[i] != NULL) {
            BAD(nixl_rs_request_free(wrong[i]));
            BAD(nixl_rs_deregister(wrong[i], 0));
            BAD(nixl_rs_listener_stop(wrong[i], 0));
            BAD(nixl_rs_notification_free(wrong[i]));
        }
    }
    BAD(nixl_rs_metadata((nixl_rs_agent *)list, &blob));
    BAD(nixl_rs_agent_destroy((nixl_rs_agent *)list, 0));
    if (strstr(nixl_rs_last_error(), "list") == NULL)
        exit(2);
    OK(nixl_rs_list_free(list));
    /* As free(NULL). */
    OK(nixl_rs_list_free(NULL));
    OK(nixl_rs_agent_destroy(NULL, 0));
    OK(nixl_rs_deregister(NULL, 0));
}

static void arguments(nixl_rs_agent *agent) {
    nixl_rs_agent *other = NULL;
    nixl_rs_list *list, *empty;
    nixl_rs_region *region = NULL;
    nixl_rs_local *local;
    nixl_rs_desc block = {4096, 4096, 0};
    nixl_rs_run endless = {UINT64_MAX - 8, 4096, 0, UINT64_MAX, UINT64_MAX};
    BAD(nixl_rs_agent_create(NULL, NULL, &other));
    BAD(nixl_rs_agent_create("", &options, &other));
    BAD(nixl_rs_agent_create("\xff\xfe", &options, &other));
    BAD(nixl_rs_agent_create("name", &options, NULL));
    BAD(nixl_rs_list_create(7, &list));
    BAD(nixl_rs_list_create(NIXL_RS_DRAM, NULL));
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &list));
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &empty));
    BAD(nixl_rs_list_push(list, NULL, 1));
    BAD(nixl_rs_list_push(list, &block, SIZE_MAX));
    BAD(nixl_rs_list_push(list, &block, (size_t)-1 / 2));
    BAD(nixl_rs_list_push(list, (nixl_rs_desc *)((char *)&block + 1), 1));
    OK(nixl_rs_list_push(list, NULL, 0));
    BAD(nixl_rs_prepare_local(agent, empty, &local));
    OK(nixl_rs_list_push(list, &block, 1));
    EXPECT(NIXL_RS_ERR_NOT_FOUND, nixl_rs_prepare_local(agent, list, &local));
    OK(nixl_rs_list_push_runs(list, &endless, 1));
    if (nixl_rs_prepare_local(agent, list, &local) >= 0)
        exit(3);
    BAD(nixl_rs_register(agent, NULL, 4096, NULL, &region));
    BAD(nixl_rs_register(agent, &block, 0, NULL, &region));
    BAD(nixl_rs_allocate(agent, 0, NULL, &region));
    if (nixl_rs_allocate(agent, SIZE_MAX, NULL, &region) >= 0 || region != NULL)
        exit(4);
    EXPECT(NIXL_RS_ERR_NOT_FOUND, nixl_rs_notify(agent, "nobody", "x", 1));
    BAD(nixl_rs_notify(agent, NULL, "x", 1));
    if (nixl_rs_load_metadata(agent, "rubbish", 7, NULL) >= 0)
        exit(5);
    if (nixl_rs_load_metadata(agent, NULL, 0, NULL) >= 0)
        exit(6);
    OK(nixl_rs_list_free(list));
    OK(nixl_rs_list_free(empty));
}

/* As from a newer header. */
struct newer {
    nixl_rs_memory_options known;
    uint64_t more;
};

static void sizes(nixl_rs_agent *agent) {
    nixl_rs_region *region;
    struct newer newer = {{sizeof newer, NIXL_RS_READ_WRITE, 0}, 0};
    nixl_rs_memory_options wrong = {0, 0, 0};
    struct {
        nixl_rs_region_info_t info;
        uint64_t guard;
    } out;
    size_t size;
    for (size = 0; size < sizeof(size_t); size++) {
        wrong.size = size;
        BAD(nixl_rs_allocate(agent, LEN, &wrong, &region));
    }
    wrong.size = SIZE_MAX;
    BAD(nixl_rs_allocate(agent, LEN, &wrong, &region));
    newer.more = 1;
    EXPECT(NIXL_RS_ERR_NOT_SUPPORTED, nixl_rs_allocate(agent, LEN, &newer.known, &region));
    newer.more = 0;
    OK(nixl_rs_allocate(agent, LEN, &newer.known, &region));
    /* As from an older header: only what it knows is written. */
    memset(&out, 0x55, sizeof out);
    out.info.size = offsetof(nixl_rs_region_info_t, len);
    OK(nixl_rs_region_info(region, &out.info));
    if (out.info.addr == 0x5555555555555555 || out.info.len != 0x5555555555555555)
        exit(7);
    out.info.size = sizeof out;
    OK(nixl_rs_region_info(region, &out.info));
    if (out.info.len != LEN || out.guard != 0x5555555555555555 || out.info.size != sizeof out)
        exit(8);
    BAD(nixl_rs_region_info(region, NULL));
    OK(nixl_rs_deregister(region, 10000));
    BAD(nixl_rs_deregister(region, 10000));
}

static nixl_rs_request *loopback(nixl_rs_agent *agent, nixl_rs_region *region) {
    nixl_rs_region_info_t info = NIXL_RS_INIT(nixl_rs_region_info_t);
    nixl_rs_list *here, *there;
    nixl_rs_request *request, *none = NULL;
    OK(nixl_rs_region_info(region, &info));
    nixl_rs_desc from = {info.addr, LEN / 2, 0}, to = {info.addr + LEN / 2, LEN / 2, 0};
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &here));
    OK(nixl_rs_list_create(NIXL_RS_DRAM, &there));
    OK(nixl_rs_list_push(here, &to, 1));
    OK(nixl_rs_list_push(there, &from, 1));
    OK(nixl_rs_request_create(agent, NIXL_RS_READ, here, "self", there, &request));
    BAD(nixl_rs_request_create(agent, 2, here, "self", there, &none));
    EXPECT(NIXL_RS_ERR_NOT_FOUND,
           nixl_rs_request_create(agent, NIXL_RS_READ, here, "nobody", there, &none));
    OK(nixl_rs_list_free(here));
    OK(nixl_rs_list_free(there));
    return request;
}

static void *hammer(void *argument) {
    nixl_rs_request *request = argument;
    int i;
    for (i = 0; i < 2000; i++) {
        nixl_rs_status status = nixl_rs_request_post(request, NULL);
        if (status != NIXL_RS_SUCCESS && status != NIXL_RS_IN_PROG &&
            status != NIXL_RS_ERR_REPOST_ACTIVE)
            return (void *)"post";
        /* Another thread may have posted it again before this one looked. */
        do
            status = nixl_rs_request_wait(request, 10000);
        while (status == NIXL_RS_IN_PROG);
        if (status != NIXL_RS_SUCCESS)
            return (void *)"wait";
    }
    return NULL;
}

struct ends {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int good;
};

static void count(void *user, nixl_rs_status status) {
    struct ends *ends = user;
    pthread_mutex_lock(&ends->lock);
    if (status == NIXL_RS_SUCCESS)
        ends->good++;
    pthread_cond_signal(&ends->changed);
    pthread_mutex_unlock(&ends->lock);
}

static void many_threads(nixl_rs_agent *agent) {
    nixl_rs_region *region;
    nixl_rs_receipt receipt = NIXL_RS_INIT(nixl_rs_receipt);
    pthread_t threads[4];
    static struct ends ends = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};
    size_t i;
    OK(nixl_rs_allocate(agent, LEN, NULL, &region));
    nixl_rs_request *request = loopback(agent, region);
    EXPECT(NIXL_RS_ERR_NO_TELEMETRY, nixl_rs_request_receipt(request, &receipt));
    OK(nixl_rs_request_on_complete(request, count, &ends));
    if (nixl_rs_request_post(request, NULL) < 0)
        exit(9);
    OK(nixl_rs_request_wait(request, 10000));
    /* It may come a moment after wait returned. */
    pthread_mutex_lock(&ends.lock);
    while (ends.good == 0)
        pthread_cond_wait(&ends.changed, &ends.lock);
    pthread_mutex_unlock(&ends.lock);
    OK(nixl_rs_request_on_complete(request, NULL, NULL));
    if (ends.good != 1)
        exit(10);
    for (i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, hammer, request) != 0)
            exit(11);
    for (i = 0; i < 4; i++) {
        void *failed;
        if (pthread_join(threads[i], &failed) != 0 || failed != NULL) {
            fprintf(stderr, "a thread failed at %s\n", (char *)failed);
            exit(12);
        }
    }
    /* Freed while it may be active. */
    if (nixl_rs_request_post(request, NULL) < 0)
        exit(13);
    OK(nixl_rs_request_free(request));
    BAD(nixl_rs_request_free(request));
    OK(nixl_rs_deregister(region, 10000));
}

/* A child has handles and memory of its parent, and none of its threads. */
static void child(nixl_rs_agent *agent) {
    nixl_rs_region *region;
    int status;
    OK(nixl_rs_allocate(agent, LEN, NULL, &region));
    nixl_rs_request *request = loopback(agent, region);
    pid_t pid = fork();
    if (pid == 0) {
        nixl_rs_agent *own;
        EXPECT(NIXL_RS_ERR_NOT_ALLOWED, nixl_rs_request_post(request, NULL));
        EXPECT(NIXL_RS_ERR_NOT_ALLOWED, nixl_rs_request_free(request));
        EXPECT(NIXL_RS_ERR_NOT_ALLOWED, nixl_rs_deregister(region, 0));
        EXPECT(NIXL_RS_ERR_NOT_ALLOWED, nixl_rs_agent_destroy(agent, 0));
        own = start("child");
        OK(nixl_rs_agent_destroy(own, 10000));
        /* Leaks of the parent's are none of the child's. */
        _exit(0);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        exit(15);
    /* The parent has all that it had. */
    if (nixl_rs_request_post(request, NULL) < 0)
        exit(16);
    OK(nixl_rs_request_wait(request, 10000));
    OK(nixl_rs_request_free(request));
    OK(nixl_rs_deregister(region, 10000));
}

int main(void) {
    nixl_rs_agent *agent = start("self");
    nixl_rs_region *late;
    handles(agent);
    arguments(agent);
    sizes(agent);
    many_threads(agent);
    child(agent);
    OK(nixl_rs_allocate(agent, LEN, NULL, &late));
    nixl_rs_request *orphan = loopback(agent, late);
    OK(nixl_rs_agent_destroy(agent, 10000));
    BAD(nixl_rs_agent_destroy(agent, 10000));
    /* What outlives its agent says so. */
    if (nixl_rs_request_post(orphan, NULL) >= 0)
        exit(14);
    OK(nixl_rs_request_free(orphan));
    OK(nixl_rs_deregister(late, 0));
    printf("all is well\n");
    return 0;
}
