/* The process ends with requests in flight; nothing is freed and nobody is told. */
#include <nixl_rs.h>
#include <stdio.h>
#include <stdlib.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) < 0) {                                                                          \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #call, nixl_rs_last_error());           \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

#define HALF (32u << 20)

int main(void) {
    nixl_rs_agent *agent;
    nixl_rs_region *region;
    nixl_rs_region_info_t info = NIXL_RS_INIT(nixl_rs_region_info_t);
    int i;
    OK(nixl_rs_agent_create("self", NULL, &agent));
    OK(nixl_rs_allocate(agent, 2 * HALF, NULL, &region));
    OK(nixl_rs_region_info(region, &info));
    for (i = 0; i < 32; i++) {
        nixl_rs_list *here, *there;
        nixl_rs_request *request;
        nixl_rs_desc to = {info.addr, HALF, 0}, from = {info.addr + HALF, HALF, 0};
        OK(nixl_rs_list_create(NIXL_RS_DRAM, &here));
        OK(nixl_rs_list_create(NIXL_RS_DRAM, &there));
        OK(nixl_rs_list_push(here, &to, 1));
        OK(nixl_rs_list_push(there, &from, 1));
        OK(nixl_rs_request_create(agent, NIXL_RS_READ, here, "self", there, &request));
        OK(nixl_rs_request_post(request, NULL));
    }
    printf("all is well\n");
    exit(0);
}
