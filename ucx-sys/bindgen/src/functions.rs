//! The functions: which ones, and how they are written down.
//!
//! bindgen declares them `extern`, which would have to be linked. They become the entries of a
//! macro call instead, from which `ucx-sys` makes its table of function pointers.

use quote::ToTokens;
use syn::{File, ForeignItem, ForeignItemFn, Item};

/// Functions that every UCX from 1.13 to 1.23 has, and that a libucp must have to be used.
pub(crate) const REQUIRED: &[&str] = &[
    "ucp_get_version",
    "ucp_get_version_string",
    "ucp_lib_query",
    "ucp_config_read",
    "ucp_config_modify",
    "ucp_config_print",
    "ucp_config_release",
    "ucp_init_version",
    "ucp_context_query",
    "ucp_context_print_info",
    "ucp_cleanup",
    "ucp_worker_create",
    "ucp_worker_query",
    "ucp_worker_print_info",
    "ucp_worker_progress",
    "ucp_worker_arm",
    "ucp_worker_signal",
    "ucp_worker_get_efd",
    "ucp_worker_fence",
    "ucp_worker_flush_nbx",
    "ucp_worker_address_query",
    "ucp_worker_release_address",
    "ucp_worker_destroy",
    "ucp_ep_create",
    "ucp_ep_query",
    "ucp_ep_print_info",
    "ucp_ep_flush_nbx",
    "ucp_ep_close_nbx",
    "ucp_mem_map",
    "ucp_mem_query",
    "ucp_mem_advise",
    "ucp_mem_unmap",
    "ucp_rkey_pack",
    "ucp_rkey_buffer_release",
    "ucp_ep_rkey_unpack",
    "ucp_rkey_ptr",
    "ucp_rkey_destroy",
    "ucp_put_nbx",
    "ucp_get_nbx",
    "ucp_am_send_nbx",
    "ucp_worker_set_am_recv_handler",
    "ucp_am_recv_data_nbx",
    "ucp_am_data_release",
    "ucp_tag_send_nbx",
    "ucp_tag_send_sync_nbx",
    "ucp_tag_recv_nbx",
    "ucp_tag_probe_nb",
    "ucp_tag_msg_recv_nbx",
    "ucp_request_check_status",
    "ucp_request_query",
    "ucp_request_cancel",
    "ucp_request_free",
    "ucs_status_string",
];

/// Functions that came later.
pub(crate) const OPTIONAL: &[&str] = &[
    // 1.14
    "ucp_memh_pack",
    "ucp_memh_buffer_release",
];

/// Takes the functions out of `file` and returns them as the call of the macro `symbols!`.
pub(crate) fn take(file: &mut File) -> Result<String, String> {
    let mut declared = Vec::new();
    file.items.retain_mut(|item| {
        let Item::ForeignMod(block) = item else {
            return true;
        };
        for item in block.items.drain(..) {
            if let ForeignItem::Fn(function) = item {
                declared.push(function);
            }
        }
        false
    });
    let mut text = String::from("symbols! {\n");
    for (heading, names) in [("required", REQUIRED), ("optional", OPTIONAL)] {
        text.push_str(&format!("    {heading} {{\n"));
        for name in names {
            let function = declared
                .iter()
                .find(|function| function.sig.ident == name)
                .ok_or_else(|| format!("the headers have no {name}"))?;
            text.push_str(&entry(function)?);
        }
        text.push_str("    }\n");
    }
    text.push_str("}\n");
    Ok(text)
}

/// One function as `fn name(argument: Type, ...) -> Type;`, formatted.
fn entry(function: &ForeignItemFn) -> Result<String, String> {
    let mut bare = function.clone();
    bare.attrs.clear();
    bare.vis = syn::Visibility::Inherited;
    let tokens = bare.to_token_stream();
    let block = quote::quote!(extern "C" { #tokens });
    let file = syn::parse2(block).map_err(|error| error.to_string())?;
    let text = prettyplease::unparse(&file);
    // Without the block around it, and as deep as the macro call wants it.
    let lines: Vec<&str> = text.lines().collect();
    let inner = lines.get(1..lines.len().saturating_sub(1)).unwrap_or(&[]);
    Ok(inner.iter().map(|line| format!("    {line}\n")).collect())
}
