/* Two agents in one process: a decode worker pulls scattered blocks out of a prefill worker's
 * cache, over same-host paths and over TCP, and every byte is checked.
 *
 *   gcc two_agents.c $(pkg-config --cflags --libs nixl_rs) && ./a.out
 */
#include <inttypes.h>
#include <nixl_rs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 4096u
#define BLOCKS 16u
#define TAKEN 5u
#define PATIENCE 10000u

static void check(nixl_rs_status status, const char *what) {
    if (status < 0) {
        fprintf(stderr, "%s: %s: %s\n", what, nixl_rs_status_name(status), nixl_rs_last_error());
        exit(1);
    }
}

static void must(int good, const char *what) {
    if (!good) {
        fprintf(stderr, "not so: %s\n", what);
        exit(1);
    }
}

/* Byte `at` of block `block`: no two blocks are alike. */
static unsigned char pattern(unsigned block, unsigned at) {
    return (unsigned char)(block * 37u + at * 11u + at / 256u);
}

static void load(nixl_rs_agent *into, nixl_rs_agent *from) {
    nixl_rs_blob *blob = NULL, *name = NULL;
    const void *data;
    size_t len;
    check(nixl_rs_metadata(from, &blob), "metadata");
    check(nixl_rs_blob_get(blob, &data, &len), "blob");
    check(nixl_rs_load_metadata(into, data, len, &name), "load");
    check(nixl_rs_blob_free(blob), "free");
    check(nixl_rs_blob_get(name, &data, &len), "name");
    must(len == strlen(data) && strcmp(data, "prefill") == 0, "the peer's name");
    check(nixl_rs_blob_free(name), "free");
}

/* Block 2i+1 of the cache becomes block i here. */
static void pull(nixl_rs_agent *decode, unsigned char *here, const unsigned char *there) {
    nixl_rs_list *local, *remote;
    nixl_rs_run row = {(uintptr_t)here, BLOCK, 0, BLOCK, TAKEN};
    nixl_rs_desc blocks[BLOCKS];
    nixl_rs_local *ours;
    nixl_rs_remote *theirs;
    nixl_rs_request *request;
    nixl_rs_post_options options = NIXL_RS_INIT(nixl_rs_post_options);
    nixl_rs_receipt receipt = NIXL_RS_INIT(nixl_rs_receipt);
    uint32_t odd[TAKEN];
    uint64_t len;
    unsigned i, at;

    for (i = 0; i < BLOCKS; i++)
        blocks[i] = (nixl_rs_desc){(uintptr_t)there + i * BLOCK, BLOCK, 0};
    for (i = 0; i < TAKEN; i++)
        odd[i] = 2 * i + 1;
    check(nixl_rs_list_create(NIXL_RS_DRAM, &local), "list");
    check(nixl_rs_list_create(NIXL_RS_DRAM, &remote), "list");
    check(nixl_rs_list_push_runs(local, &row, 1), "push");
    check(nixl_rs_list_push(remote, blocks, BLOCKS), "push");
    check(nixl_rs_list_len(local, &len), "len");
    must(len == TAKEN, "a run counts as its blocks");
    check(nixl_rs_prepare_local(decode, local, &ours), "prepare");
    check(nixl_rs_prepare_remote(decode, "prefill", remote, &theirs), "prepare");
    check(nixl_rs_list_free(local), "free");
    check(nixl_rs_list_free(remote), "free");
    check(nixl_rs_request_make(decode, NIXL_RS_READ, ours, NULL, 0, theirs, odd, TAKEN, &request),
          "make");
    must(nixl_rs_request_status(request) == NIXL_RS_ERR_NOT_POSTED, "not posted");

    options.notification = "pulled";
    options.notification_len = 6;
    options.deadline_ms = PATIENCE;
    check(nixl_rs_request_post(request, &options), "post");
    must(nixl_rs_request_wait(request, PATIENCE) == NIXL_RS_SUCCESS, "done");
    for (i = 0; i < TAKEN; i++)
        for (at = 0; at < BLOCK; at++)
            must(here[i * BLOCK + at] == pattern(odd[i], at), "the bytes of a block");
    check(nixl_rs_request_receipt(request, &receipt), "receipt");
    must(receipt.bytes == TAKEN * BLOCK && receipt.descriptors == TAKEN, "what was moved");
    printf("%" PRIu64 " bytes over %s in %" PRIu64 " ns\n", receipt.bytes, receipt.path,
           receipt.total_ns);
    check(nixl_rs_request_free(request), "free");
    check(nixl_rs_local_free(ours), "free");
    check(nixl_rs_remote_free(theirs), "free");
}

static void hear(nixl_rs_agent *prefill) {
    nixl_rs_notification *got;
    nixl_rs_notification_view view = NIXL_RS_INIT(nixl_rs_notification_view);
    check(nixl_rs_take_notification(prefill, PATIENCE, &got), "notification");
    must(got != NULL, "a notification came");
    check(nixl_rs_notification_get(got, &view), "view");
    must(view.len == 6 && memcmp(view.data, "pulled", 6) == 0, "its bytes");
    must(strcmp(view.from, "decode") == 0, "its sender");
    check(nixl_rs_notification_free(got), "free");
}

static void show(nixl_rs_agent *agent) {
    nixl_rs_blob *table;
    const void *text;
    size_t len;
    check(nixl_rs_agent_explain(agent, "prefill", NIXL_RS_READ, TAKEN, BLOCK, &table), "explain");
    check(nixl_rs_blob_get(table, &text, &len), "table");
    must(len > 0, "the table says something");
    printf("%s\n", (const char *)text);
    check(nixl_rs_blob_free(table), "free");
}

static void two_agents(const char *config) {
    nixl_rs_agent_options options = NIXL_RS_INIT(nixl_rs_agent_options);
    nixl_rs_agent *prefill, *decode;
    nixl_rs_region *cache, *memory;
    nixl_rs_region_info_t info = NIXL_RS_INIT(nixl_rs_region_info_t);
    unsigned char *bytes = malloc(BLOCK * BLOCKS);
    unsigned i, at;

    must(bytes != NULL, "memory");
    options.config = config;
    check(nixl_rs_agent_create("prefill", &options, &prefill), "create");
    check(nixl_rs_agent_create("decode", &options, &decode), "create");
    for (i = 0; i < BLOCKS; i++)
        for (at = 0; at < BLOCK; at++)
            bytes[i * BLOCK + at] = pattern(i, at);
    check(nixl_rs_register(prefill, bytes, BLOCK * BLOCKS, NULL, &cache), "register");
    check(nixl_rs_allocate(decode, BLOCK * TAKEN, NULL, &memory), "allocate");
    check(nixl_rs_region_info(memory, &info), "info");
    load(decode, prefill);
    check(nixl_rs_agent_connect(decode, "prefill", PATIENCE), "connect");

    pull(decode, (unsigned char *)(uintptr_t)info.addr, bytes);
    hear(prefill);
    show(decode);

    check(nixl_rs_deregister(memory, PATIENCE), "deregister");
    check(nixl_rs_deregister(cache, PATIENCE), "deregister");
    check(nixl_rs_agent_destroy(decode, PATIENCE), "destroy");
    check(nixl_rs_agent_destroy(prefill, PATIENCE), "destroy");
    free(bytes);
}

/* Over same-host paths and over TCP, or with the configurations that are given. */
int main(int argc, char **argv) {
    int i;
    for (i = 1; i < argc; i++)
        two_agents(argv[i]);
    if (argc < 2) {
        two_agents("backends = [\"ipc\"]");
        two_agents("backends = [\"tcp\"]");
    }
    printf("all is well\n");
    return 0;
}
