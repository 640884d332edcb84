# find_package(nixl_rs) gives the target nixl_rs::nixl_rs, wherever the tree was unpacked.
get_filename_component(_nixl_rs_root "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET nixl_rs::nixl_rs)
  add_library(nixl_rs::nixl_rs SHARED IMPORTED)
  set_target_properties(nixl_rs::nixl_rs PROPERTIES
    IMPORTED_LOCATION "${_nixl_rs_root}/lib/libnixl_rs.so.0"
    IMPORTED_SONAME "libnixl_rs.so.0"
    INTERFACE_INCLUDE_DIRECTORIES "${_nixl_rs_root}/include")
endif()
unset(_nixl_rs_root)
