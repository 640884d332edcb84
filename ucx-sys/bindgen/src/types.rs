//! What bindgen is told.

use std::path::Path;

use bindgen::callbacks::{DeriveTrait, ImplementsTrait, ParseCallbacks};
use bindgen::{Builder, EnumVariation, Formatter};

use crate::functions;

/// Enums whose values are bits of a mask. `|` works on them.
const MASKS: &str =
    "ucp_(.*_field|.*_flags(_field|_t)?|feature|op_attr_t|am_recv_attr_t|wakeup_event_types)";

/// Enums without a name. Their constants are numbers: what bindgen calls the types is of no use.
const NAMELESS: &str = "UCP_(MEM_MAP|ENTITY_NAME|MAX)_.*";

/// Types that the functions do not mention: values of masks, and what void pointers point to.
const TYPES: &str = "ucp_.*_field|ucp_.*_flags(_t)?|ucp_dt_.*|ucp_op_attr_t|ucp_feature|\
    ucp_am_recv_attr_t|ucp_wakeup_event_types|ucs_memory_type|ucs_status_t|ucs_thread_mode_t";

/// Fields of what no function here takes, and what only the types of libc are made of.
const UNUSED: &str = "ucp_(listener|conn_request|datatype|ep_perf)_.*_field|ucp_(stream|tag_send).*_flags_t|\
    ucp_dt_(create|query).*|_IO_.*|__(off|off64|socklen)_t|sa_family_t";

/// C's own types come from the crate libc, so that the headers of the machine that runs bindgen do
/// not show.
const LIBC: &str = "sockaddr|sockaddr_storage|socklen_t|FILE";

pub(crate) fn builder(include: &Path) -> Builder {
    let mut builder = bindgen::builder()
        .header(include.join("ucp/api/ucp.h").to_string_lossy())
        .clang_arg(format!("-I{}", include.display()))
        .default_enum_style(EnumVariation::NewType {
            is_bitfield: false,
            is_global: false,
        })
        .bitfield_enum(MASKS)
        .prepend_enum_name(false)
        .formatter(Formatter::None)
        .generate_comments(false)
        .derive_default(true)
        .use_core()
        .ctypes_prefix("core::ffi")
        .allowlist_recursively(true)
        .allowlist_var("UCP_API_(MAJOR|MINOR)")
        .constified_enum(NAMELESS)
        .allowlist_var(NAMELESS)
        .allowlist_type(TYPES)
        .blocklist_type(LIBC)
        .blocklist_type(UNUSED)
        .raw_line("use libc::{sockaddr, sockaddr_storage, socklen_t};")
        .parse_callbacks(Box::new(LibcTypes));
    for name in functions::REQUIRED.iter().chain(functions::OPTIONAL) {
        builder = builder.allowlist_function(name);
    }
    builder
}

/// The version of the headers.
pub(crate) fn version(file: &syn::File) -> Result<String, String> {
    let constant = |name: &str| {
        file.items.iter().find_map(|item| match item {
            syn::Item::Const(item) if item.ident == name => {
                let value = &item.expr;
                Some(quote::quote!(#value).to_string())
            }
            _ => None,
        })
    };
    match (constant("UCP_API_MAJOR"), constant("UCP_API_MINOR")) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => Err("the headers do not say their version".to_owned()),
    }
}

/// Makes the constants of enums without a name plain numbers: bindgen numbers such enums through,
/// those of the system's headers included.
pub(crate) fn unname(file: &mut syn::File) {
    let nameless = |ident: &syn::Ident| ident.to_string().starts_with("_bindgen_ty_");
    file.items.retain_mut(|item| match item {
        syn::Item::Type(alias) => !nameless(&alias.ident),
        syn::Item::Const(constant) => {
            if let syn::Type::Path(path) = &*constant.ty
                && path.path.get_ident().is_some_and(nameless)
            {
                constant.ty = syn::parse_quote!(u32);
            }
            true
        }
        _ => true,
    });
}

/// What libc's types implement.
#[derive(Debug)]
struct LibcTypes;

impl ParseCallbacks for LibcTypes {
    fn blocklisted_type_implements_trait(
        &self,
        _name: &str,
        derive: DeriveTrait,
    ) -> Option<ImplementsTrait> {
        match derive {
            DeriveTrait::Copy => Some(ImplementsTrait::Yes),
            _ => Some(ImplementsTrait::No),
        }
    }
}
