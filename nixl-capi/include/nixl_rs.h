/*
 * The C ABI of nixl-rs: register memory, exchange metadata, move scattered blocks.
 *
 * Made by cbindgen from nixl-capi/src; do not edit.
 *
 * - Every function that can fail returns a nixl_rs_status; nixl_rs_last_error() says more.
 * - A handle is a number that looks like a pointer. One that was freed, was never made or is of
 *   another kind gives NIXL_RS_ERR_INVALID_PARAM, never a crash. NULL is freed as free(NULL) is.
 * - Structures begin with their size: set it to sizeof, or use NIXL_RS_INIT.
 * - Every function may be called from any thread, with the same handle too.
 * - Where a function fails, what it would have written stays as it was.
 */


#ifndef NIXL_RS_H
#define NIXL_RS_H

#include <stddef.h>
#include <stdint.h>
/* Begins a structure: nixl_rs_post_options options = NIXL_RS_INIT(nixl_rs_post_options); */
#ifdef __cplusplus
#define NIXL_RS_INIT(type) { sizeof(type) }
#else
#define NIXL_RS_INIT(type) { .size = sizeof(type) }
#endif


// It is still going on.
#define NIXL_RS_IN_PROG 1

// Done.
#define NIXL_RS_SUCCESS 0

// The request was never posted.
#define NIXL_RS_ERR_NOT_POSTED -1

// The caller passed something that cannot be right.
#define NIXL_RS_ERR_INVALID_PARAM -2

// A system call or device failed.
#define NIXL_RS_ERR_BACKEND -3

// A name is not known here, or a block lies in no registered memory.
#define NIXL_RS_ERR_NOT_FOUND -4

// Counts or lengths of two lists differ, or metadata does not decode.
#define NIXL_RS_ERR_MISMATCH -5

// Policy or configuration forbids it.
#define NIXL_RS_ERR_NOT_ALLOWED -6

// The request is still active, so it cannot be posted again.
#define NIXL_RS_ERR_REPOST_ACTIVE -7

// A bug in this library: it panicked.
#define NIXL_RS_ERR_UNKNOWN -8

// No path or feature can do it.
#define NIXL_RS_ERR_NOT_SUPPORTED -9

// The peer died, closed or was cut off.
#define NIXL_RS_ERR_REMOTE_DISCONNECT -10

// The caller cancelled it.
#define NIXL_RS_ERR_CANCELED -11

// There is nothing to report, because nothing has completed.
#define NIXL_RS_ERR_NO_TELEMETRY -12

// The deadline passed.
#define NIXL_RS_ERR_TIMEOUT -100

// Somebody still uses the memory; it stays registered.
#define NIXL_RS_ERR_STILL_MAPPED -101

// Another living agent has this name.
#define NIXL_RS_ERR_NAME_CONFLICT -102

// The peer broke the protocol.
#define NIXL_RS_ERR_PEER_MISBEHAVED -103

// The peer could not prove who it is.
#define NIXL_RS_ERR_UNAUTHENTICATED -104

// Metadata older than what is loaded, or replayed.
#define NIXL_RS_ERR_STALE -105

// A limit was reached.
#define NIXL_RS_ERR_EXHAUSTED -106

// A backend dropped an operation (a bug in it).
#define NIXL_RS_ERR_ABANDONED -107

// The peer's memory into ours.
#define NIXL_RS_READ 0

// Our memory into the peer's.
#define NIXL_RS_WRITE 1

// Host memory.
#define NIXL_RS_DRAM 0

// GPU memory.
#define NIXL_RS_VRAM 1

// A time that never passes.
#define NIXL_RS_FOREVER UINT64_MAX

// Peers may read and write.
#define NIXL_RS_READ_WRITE 0

// Peers may only read.
#define NIXL_RS_READ_ONLY 1

// Posted, and no byte moved for a while.
#define NIXL_RS_STALLED 1

// A named endpoint that registers memory and talks to peers.
typedef struct nixl_rs_agent nixl_rs_agent;

// Bytes or a text of this library's.
typedef struct nixl_rs_blob nixl_rs_blob;

// An ordered list of blocks of one kind of memory.
typedef struct nixl_rs_list nixl_rs_list;

// Serves an agent's metadata.
typedef struct nixl_rs_listener nixl_rs_listener;

// Blocks of this agent's memory, looked up once.
typedef struct nixl_rs_local nixl_rs_local;

// Bytes that another agent sent.
typedef struct nixl_rs_notification nixl_rs_notification;

// Memory that an agent has registered.
typedef struct nixl_rs_region nixl_rs_region;

// Blocks of a peer's memory, looked up once.
typedef struct nixl_rs_remote nixl_rs_remote;

// A transfer, prepared once, posted as often as one likes.
typedef struct nixl_rs_request nixl_rs_request;

// What a call came to: negative for an error. Numbers from -1 to -12 are NIXL's `nixl_status_t`.
typedef int32_t nixl_rs_status;

// Options of nixl_rs_agent_create.
typedef struct nixl_rs_agent_options {
  // sizeof(nixl_rs_agent_options)
  size_t size;
  // Settings as TOML, as docs/configuration.md lists them: backends, threads, deadlines, which
  // paths may be used. NULL: those of the file that NIXL_RS_CONFIG names and of the other
  // NIXL_RS_* variables.
  const char *config;
} nixl_rs_agent_options;

// Options of nixl_rs_register and nixl_rs_allocate.
typedef struct nixl_rs_memory_options {
  // sizeof(nixl_rs_memory_options)
  size_t size;
  // What peers may do: NIXL_RS_READ_WRITE or NIXL_RS_READ_ONLY.
  uint32_t access;
  // nixl_rs_allocate: 1 for huge pages where the machine has them, else 0.
  uint32_t huge_pages;
} nixl_rs_memory_options;

// What nixl_rs_region_info says.
typedef struct nixl_rs_region_info_t {
  // sizeof(nixl_rs_region_info_t)
  size_t size;
  // Where it begins.
  uint64_t addr;
  // Its bytes.
  uint64_t len;
  // Bytes of a page, for memory that the agent allocated; else 0.
  uint64_t page_size;
  // 1 if peers may write.
  uint32_t writable;
  // 1 if peers on this host can map it.
  uint32_t shareable;
} nixl_rs_region_info_t;

// One block.
typedef struct nixl_rs_desc {
  // Address.
  uint64_t addr;
  // Bytes.
  uint64_t len;
  // Device number, 0 for host memory.
  uint64_t dev;
} nixl_rs_desc;

// `count` blocks of `len` bytes, the i-th at `addr + i * stride`.
typedef struct nixl_rs_run {
  // Address of the first block.
  uint64_t addr;
  // Bytes of each block.
  uint64_t len;
  // Device number, 0 for host memory.
  uint64_t dev;
  // Bytes from one block's start to the next one's.
  uint64_t stride;
  // Number of blocks.
  uint64_t count;
} nixl_rs_run;

// Options of nixl_rs_request_post.
typedef struct nixl_rs_post_options {
  // sizeof(nixl_rs_post_options)
  size_t size;
  // Bytes that the target is given after the data is visible to it; NULL: no notification.
  const void *notification;
  // How many; a notification may be empty.
  size_t notification_len;
  // Milliseconds until the request must have ended; 0: as the agent's configuration says.
  uint64_t deadline_ms;
} nixl_rs_post_options;

// Called when a post ends, on the thread that ended it: it must not block, throw or longjmp.
typedef void (*nixl_rs_callback)(void *user, nixl_rs_status request_status);

// What nixl_rs_request_info says.
typedef struct nixl_rs_request_info_t {
  // sizeof(nixl_rs_request_info_t)
  size_t size;
  // NIXL_RS_READ or NIXL_RS_WRITE.
  uint32_t op;
  // NIXL_RS_STALLED, or 0.
  uint32_t flags;
  // Bytes to move.
  uint64_t bytes;
  // Bytes that the present, or last, post has moved so far.
  uint64_t moved;
  // Blocks asked for.
  uint64_t descriptors;
  // Blocks left after merging adjacent ones.
  uint64_t merged;
} nixl_rs_request_info_t;

// What the last completed post of a request did.
typedef struct nixl_rs_receipt {
  // sizeof(nixl_rs_receipt)
  size_t size;
  // The path that moved the bytes, such as "shm", ended by a zero.
  char path[32];
  // NIXL_RS_READ or NIXL_RS_WRITE.
  uint32_t op;
  // 1 if the peer is an agent of NIXL's.
  uint32_t foreign;
  // Bytes moved.
  uint64_t bytes;
  // Blocks asked for.
  uint64_t descriptors;
  // Blocks left after merging adjacent ones.
  uint64_t merged;
  // Nanoseconds that the post call took.
  uint64_t post_ns;
  // Nanoseconds from post to completion.
  uint64_t total_ns;
  // Attempts made; more than 1: a path failed first.
  uint32_t attempts;
  // Always 0.
  uint32_t reserved;
} nixl_rs_receipt;

// What nixl_rs_notification_get says; the pointers are valid until the notification is freed.
typedef struct nixl_rs_notification_view {
  // sizeof(nixl_rs_notification_view)
  size_t size;
  // The sender's name.
  const char *from;
  // The bytes.
  const void *data;
  // How many.
  size_t len;
  // The sender's incarnation.
  uint64_t generation;
  // 1 if the sender is loaded here and proved who it is; else name and generation are claims.
  uint32_t verified;
  // Always 0.
  uint32_t reserved;
} nixl_rs_notification_view;

// Options of the functions of this kind.
typedef struct nixl_rs_exchange_options {
  // sizeof(nixl_rs_exchange_options)
  size_t size;
  // A key of at least 16 bytes that both sides share; NULL: none, then a listener serves
  // loopback alone.
  const void *key;
  // Bytes of the key.
  size_t key_len;
  // Milliseconds of a whole call; 0: 10 s as a client, 30 s as a listener.
  uint64_t timeout_ms;
} nixl_rs_exchange_options;

// What an agent counts.
typedef struct nixl_rs_counters {
  // sizeof(nixl_rs_counters)
  size_t size;
  // Notifications sent.
  uint64_t notifications_sent;
  // Notifications delivered to this application.
  uint64_t notifications_received;
  // Times a request had to use a slower class of path than both sides have.
  uint64_t degraded;
  // Regions registered now.
  uint64_t regions;
  // Requests active now.
  uint64_t active_requests;
} nixl_rs_counters;

// What an agent counts for one peer, path and direction.
typedef struct nixl_rs_path_counters {
  // sizeof(nixl_rs_path_counters)
  size_t size;
  // The peer's name, ended by a zero.
  char peer[256];
  // The path, ended by a zero.
  char path[32];
  // NIXL_RS_READ or NIXL_RS_WRITE.
  uint32_t op;
  // Always 0.
  uint32_t reserved;
  // Bytes moved by completed requests.
  uint64_t bytes;
  // Blocks of completed requests, before merging.
  uint64_t descriptors;
  // Requests completed.
  uint64_t requests;
  // Attempts that failed.
  uint64_t errors;
  // Requests that went on to another path from here.
  uint64_t retries;
  // Microseconds from post to completion, summed.
  uint64_t micros;
  // Completed requests by duration: up to 10, 30, 100, 300 us, 1, 3, 10, 30, 100, 300 ms, 1 s,
  // 10 s, longer.
  uint64_t buckets[13];
} nixl_rs_path_counters;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last call that failed on this thread said: UTF-8, never NULL, empty before the first.
// Valid until the next failure on this thread. Calls that succeed leave it alone.
const char *nixl_rs_last_error(void);

// The name of a status, such as "NIXL_RS_ERR_TIMEOUT"; "NIXL_RS_BAD_STATUS" for none of ours.
const char *nixl_rs_status_name(nixl_rs_status status);

// This library's version, such as "0.1.0".
const char *nixl_rs_version(void);

// Where the bytes are and how many. A zero byte stands behind them, so a text is a C string.
// Valid until the blob is freed.
nixl_rs_status nixl_rs_blob_get(const struct nixl_rs_blob *blob, const void **data, size_t *len);

// Frees a blob.
nixl_rs_status nixl_rs_blob_free(struct nixl_rs_blob *blob);

// Starts an agent. `name` is 1 to 255 bytes of UTF-8; `options` may be NULL.
nixl_rs_status nixl_rs_agent_create(const char *name,
                                    const struct nixl_rs_agent_options *options,
                                    struct nixl_rs_agent **out);

// Ends an agent within `timeout_ms`: requests are cancelled, memory is withdrawn from peers. The
// handle is freed in any case; its requests, regions and lists must still be freed.
//
// NIXL_RS_ERR_TIMEOUT: peers did not let go of memory, NIXL_RS_ERR_STILL_MAPPED: another thread is
// inside a call with this agent, which ends when that returns. Do not free registered memory then.
nixl_rs_status nixl_rs_agent_destroy(struct nixl_rs_agent *agent, uint64_t timeout_ms);

// The agent's name.
nixl_rs_status nixl_rs_agent_name(const struct nixl_rs_agent *agent, struct nixl_rs_blob **name);

// This incarnation of the agent: a random number, new at every start.
nixl_rs_status nixl_rs_agent_generation(const struct nixl_rs_agent *agent, uint64_t *generation);

// An eventfd that becomes readable when a request ends or a notification arrives. It is the
// agent's: read it empty, do not close it.
nixl_rs_status nixl_rs_agent_event_fd(const struct nixl_rs_agent *agent, int *fd);

// Advances the work by at most 1 ms, waiting up to `wait_us` for something to do. Needed with
// agent.copy_threads = 0, harmless otherwise. `did` (may be NULL) becomes 1 if anything was done,
// else 0.
nixl_rs_status nixl_rs_agent_progress(const struct nixl_rs_agent *agent,
                                      uint64_t wait_us,
                                      int *did);

// Connects to a peer over every common backend, so that the first request need not wait. Returns
// as soon as one connection is up.
nixl_rs_status nixl_rs_agent_connect(const struct nixl_rs_agent *agent,
                                     const char *peer,
                                     uint64_t timeout_ms);

// Tries every path to a peer in one direction, so that nixl_rs_agent_explain shows what works.
nixl_rs_status nixl_rs_agent_prove(const struct nixl_rs_agent *agent,
                                   const char *peer,
                                   uint32_t op,
                                   uint64_t timeout_ms);

// What would move `count` scattered blocks of `block_len` bytes of host memory from or to memory
// that a peer's agent allocated: a table of all paths, best first, with the reason for each one
// that is rejected. What did move a request's blocks stands in its receipt.
nixl_rs_status nixl_rs_agent_explain(const struct nixl_rs_agent *agent,
                                     const char *peer,
                                     uint32_t op,
                                     uint64_t count,
                                     uint64_t block_len,
                                     struct nixl_rs_blob **table);

// The names of loaded peers, sorted, each ended by a zero byte.
nixl_rs_status nixl_rs_agent_peers(const struct nixl_rs_agent *agent, struct nixl_rs_blob **names);

// Forgets a peer: its requests end with NIXL_RS_ERR_REMOTE_DISCONNECT.
nixl_rs_status nixl_rs_agent_remove_peer(const struct nixl_rs_agent *agent, const char *peer);

// Registers host memory of the caller's, which keeps it until nixl_rs_deregister or
// nixl_rs_agent_destroy has succeeded. `options` may be NULL.
nixl_rs_status nixl_rs_register(const struct nixl_rs_agent *agent,
                                void *memory,
                                size_t len,
                                const struct nixl_rs_memory_options *options,
                                struct nixl_rs_region **out);

// Allocates and registers zeroed host memory that peers on this host can map: the fastest there.
// nixl_rs_region_info says where it is. It is the library's and goes with the handle.
nixl_rs_status nixl_rs_allocate(const struct nixl_rs_agent *agent,
                                size_t len,
                                const struct nixl_rs_memory_options *options,
                                struct nixl_rs_region **out);

// Where registered memory is. Set info->size first.
nixl_rs_status nixl_rs_region_info(const struct nixl_rs_region *region,
                                   struct nixl_rs_region_info_t *info);

// Withdraws memory from peers, waits until nothing touches it, and frees the handle.
//
// NIXL_RS_ERR_STILL_MAPPED: somebody may still touch it after `timeout_ms`. It stays withdrawn and
// must not be freed; the handle stays too: call again. With an agent that was destroyed it only
// frees the handle.
nixl_rs_status nixl_rs_deregister(struct nixl_rs_region *region, uint64_t timeout_ms);

// Makes an empty list for memory of a kind: NIXL_RS_DRAM, NIXL_RS_VRAM.
nixl_rs_status nixl_rs_list_create(uint32_t kind, struct nixl_rs_list **out);

// Adds `count` blocks.
nixl_rs_status nixl_rs_list_push(struct nixl_rs_list *list,
                                 const struct nixl_rs_desc *blocks,
                                 size_t count);

// Adds `count` strided runs of blocks.
nixl_rs_status nixl_rs_list_push_runs(struct nixl_rs_list *list,
                                      const struct nixl_rs_run *runs,
                                      size_t count);

// How many blocks a list has.
nixl_rs_status nixl_rs_list_len(const struct nixl_rs_list *list, uint64_t *len);

// Frees a list. What was prepared from it stays.
nixl_rs_status nixl_rs_list_free(struct nixl_rs_list *list);

// Looks up blocks of this agent's memory, for many requests.
nixl_rs_status nixl_rs_prepare_local(const struct nixl_rs_agent *agent,
                                     const struct nixl_rs_list *list,
                                     struct nixl_rs_local **out);

// Looks up blocks of a peer's memory (or of this agent's own, by its name), for many requests.
nixl_rs_status nixl_rs_prepare_remote(const struct nixl_rs_agent *agent,
                                      const char *peer,
                                      const struct nixl_rs_list *list,
                                      struct nixl_rs_remote **out);

// How many blocks a prepared list has.
nixl_rs_status nixl_rs_local_len(const struct nixl_rs_local *list, uint64_t *len);

// How many blocks a prepared list has.
nixl_rs_status nixl_rs_remote_len(const struct nixl_rs_remote *list, uint64_t *len);

// Frees a prepared list. Requests made of it stay.
nixl_rs_status nixl_rs_local_free(struct nixl_rs_local *list);

// Frees a prepared list. Requests made of it stay.
nixl_rs_status nixl_rs_remote_free(struct nixl_rs_remote *list);

// Prepares a transfer between all blocks of two lists, paired in order.
nixl_rs_status nixl_rs_request_create(const struct nixl_rs_agent *agent,
                                      uint32_t op,
                                      const struct nixl_rs_list *local,
                                      const char *peer,
                                      const struct nixl_rs_list *remote,
                                      struct nixl_rs_request **out);

// Prepares a transfer between blocks of two prepared lists, by their indices, paired in order;
// NULL and 0 take all blocks of a list.
nixl_rs_status nixl_rs_request_make(const struct nixl_rs_agent *agent,
                                    uint32_t op,
                                    const struct nixl_rs_local *local,
                                    const uint32_t *local_indices,
                                    size_t local_count,
                                    const struct nixl_rs_remote *remote,
                                    const uint32_t *remote_indices,
                                    size_t remote_count,
                                    struct nixl_rs_request **out);

// Starts a transfer. `options` may be NULL.
//
// NIXL_RS_IN_PROG: it goes on. NIXL_RS_SUCCESS: it is done already. An error: it did not start, or
// failed at once.
nixl_rs_status nixl_rs_request_post(const struct nixl_rs_request *request,
                                    const struct nixl_rs_post_options *options);

// How a request stands: NIXL_RS_IN_PROG, NIXL_RS_SUCCESS, NIXL_RS_ERR_NOT_POSTED, or what it
// failed with. Once it is none of IN_PROG nothing touches its memory. Never blocks.
nixl_rs_status nixl_rs_request_status(const struct nixl_rs_request *request);

// Waits until a request ends; NIXL_RS_IN_PROG when it has not after `timeout_ms`, or when another
// thread has posted it again.
nixl_rs_status nixl_rs_request_wait(const struct nixl_rs_request *request, uint64_t timeout_ms);

// Asks for an early end. The request ends as cancelled, or as it would have, once no late access
// can land.
nixl_rs_status nixl_rs_request_cancel(const struct nixl_rs_request *request);

// Calls `callback` with `user` at the end of every post, one call at a time. Another callback
// takes its place; NULL takes it away. `user` must stay valid until the request was freed and has
// ended.
nixl_rs_status nixl_rs_request_on_complete(const struct nixl_rs_request *request,
                                           nixl_rs_callback callback,
                                           void *user);

// What a request moves, and how far it is. Set info->size first.
nixl_rs_status nixl_rs_request_info(const struct nixl_rs_request *request,
                                    struct nixl_rs_request_info_t *info);

// Frees a request. An active one is cancelled; its memory stays registered until nothing touches
// it.
nixl_rs_status nixl_rs_request_free(struct nixl_rs_request *request);

// The account of the last completed post; NIXL_RS_ERR_NO_TELEMETRY before there is one. Set
// receipt->size first.
nixl_rs_status nixl_rs_request_receipt(const struct nixl_rs_request *request,
                                       struct nixl_rs_receipt *receipt);

// The path, its lanes, and why earlier paths failed: a line each, for people.
nixl_rs_status nixl_rs_request_receipt_text(const struct nixl_rs_request *request,
                                            struct nixl_rs_blob **text);

// Sends bytes to a loaded peer, after everything that became deliverable before. Returns once
// they are queued.
nixl_rs_status nixl_rs_notify(const struct nixl_rs_agent *agent,
                              const char *peer,
                              const void *data,
                              size_t len);

// Takes the oldest notification, waiting for one up to `timeout_ms`. `out` becomes NULL when none
// came.
nixl_rs_status nixl_rs_take_notification(const struct nixl_rs_agent *agent,
                                         uint64_t timeout_ms,
                                         struct nixl_rs_notification **out);

// Looks into a notification. Set view->size first.
nixl_rs_status nixl_rs_notification_get(const struct nixl_rs_notification *notification,
                                        struct nixl_rs_notification_view *view);

// Frees a notification.
nixl_rs_status nixl_rs_notification_free(struct nixl_rs_notification *notification);

// Everything a peer needs: how to reach this agent, and all its memory. It holds the agent's
// secret: give it only to agents that may read and write that memory.
nixl_rs_status nixl_rs_metadata(const struct nixl_rs_agent *agent, struct nixl_rs_blob **out);

// Some regions, for a peer that may not have the others; with how to reach this agent unless
// `with_card` is 0.
nixl_rs_status nixl_rs_partial_metadata(const struct nixl_rs_agent *agent,
                                        const struct nixl_rs_region *const *regions,
                                        size_t count,
                                        int with_card,
                                        struct nixl_rs_blob **out);

// Tells a peer that regions are gone; with none, that this agent is going.
nixl_rs_status nixl_rs_withdrawal(const struct nixl_rs_agent *agent,
                                  const struct nixl_rs_region *const *regions,
                                  size_t count,
                                  struct nixl_rs_blob **out);

// Loads or updates a peer from its metadata. `name` (may be NULL) receives the peer's name.
nixl_rs_status nixl_rs_load_metadata(const struct nixl_rs_agent *agent,
                                     const void *data,
                                     size_t len,
                                     struct nixl_rs_blob **name);

// Serves an agent's metadata at `address` (host:port; NULL: a free port on loopback), and takes
// that of others. `options` may be NULL.
nixl_rs_status nixl_rs_listener_start(const struct nixl_rs_agent *agent,
                                      const char *address,
                                      const struct nixl_rs_exchange_options *options,
                                      struct nixl_rs_listener **out);

// Where a listener can be reached: host:port.
nixl_rs_status nixl_rs_listener_address(const struct nixl_rs_listener *listener,
                                        struct nixl_rs_blob **address);

// Ends a listener; connections may end by themselves within `grace_ms`, then they are cut.
nixl_rs_status nixl_rs_listener_stop(struct nixl_rs_listener *listener, uint64_t grace_ms);

// Fetches and loads the metadata of the agent that listens at `address`. `name` (may be NULL)
// receives its name; `options` may be NULL.
nixl_rs_status nixl_rs_fetch_metadata(const struct nixl_rs_agent *agent,
                                      const char *address,
                                      const struct nixl_rs_exchange_options *options,
                                      struct nixl_rs_blob **name);

// Sends this agent's metadata to the agent that listens at `address`. `options` may be NULL.
nixl_rs_status nixl_rs_send_metadata(const struct nixl_rs_agent *agent,
                                     const char *address,
                                     const struct nixl_rs_exchange_options *options);

// Tells the agent that listens at `address` to forget this one. It wants a key for that.
nixl_rs_status nixl_rs_invalidate_metadata(const struct nixl_rs_agent *agent,
                                           const char *address,
                                           const struct nixl_rs_exchange_options *options);

// Reads the agent's counters. Set counters->size first.
nixl_rs_status nixl_rs_agent_counters(const struct nixl_rs_agent *agent,
                                      struct nixl_rs_counters *counters);

// Reads the counters of every peer, path and direction into `array`, which has room for
// `capacity`; `count` receives how many there are, which may be more. Set array[0].size first: the
// others get the same.
nixl_rs_status nixl_rs_agent_path_counters(const struct nixl_rs_agent *agent,
                                           struct nixl_rs_path_counters *array,
                                           size_t capacity,
                                           size_t *count);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NIXL_RS_H */
