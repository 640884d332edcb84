//! Descriptor lists: what to register, what to transfer, what others hold.

use std::fmt::Debug;

use nixl::{DescList, MemKind};
use parking_lot::Mutex;

use crate::{
    ffi::{Array, Out, Text},
    handle::Handle,
    status::{Result, Status, call},
};

/// `NIXL_CAPI_MEM_DRAM`: the one kind of memory so far.
pub(crate) const DRAM: u32 = 0;

/// The number of `nixl_capi_mem_type_t` for something else.
const MEM_TYPES: u32 = 6;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) dev: u64,
}

/// A block to register; storage plugins, which are not here, read the bytes beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegBlock {
    pub(crate) block: Block,
    #[expect(dead_code, reason = "shown by print, through Debug")]
    meta: Vec<u8>,
}

/// A list of `T`, all of one kind of memory.
pub(crate) struct List<T> {
    pub(crate) kind: u32,
    pub(crate) items: Mutex<Vec<T>>,
}

pub(crate) type XferList = List<Block>;
pub(crate) type RegList = List<RegBlock>;
/// The agent of each block; `None` for a placeholder. Memory views, which use the rest, need a GPU.
pub(crate) type RemoteList = List<Option<String>>;

impl<T: Clone + Debug + Send + 'static> List<T> {
    fn create(kind: u32, out: Out<Handle>) -> Result {
        out.check()?;
        if kind >= MEM_TYPES {
            return Err(Status::InvalidParam);
        }
        let items = Mutex::new(Vec::new());
        out.put(Handle::new(Self { kind, items }))
    }

    fn remove(&self, index: i32) -> Result {
        let mut items = self.items.lock();
        let index = usize::try_from(index).ok().filter(|i| *i < items.len());
        items.remove(index.ok_or(Status::Backend)?);
        Ok(())
    }

    fn resize(&self, len: usize, fill: T) -> Result {
        let mut items = self.items.lock();
        let more = len.saturating_sub(items.len());
        items.try_reserve(more).map_err(|_| Status::Backend)?;
        items.resize(len, fill);
        Ok(())
    }

    fn print(&self) {
        let items = self.items.lock();
        println!("{} of memory type {}", items.len(), self.kind);
        for item in &*items {
            println!("  {item:x?}");
        }
    }
}

impl XferList {
    /// Errors: `Backend` for memory that this library does not move, `NotFound` for an empty list.
    pub(crate) fn descriptors(&self) -> Result<DescList> {
        if self.kind != DRAM {
            tracing::warn!(kind = self.kind, "only host memory can be transferred");
            return Err(Status::Backend);
        }
        let items = self.items.lock();
        if items.is_empty() {
            return Err(Status::NotFound);
        }
        let mut list = DescList::new(MemKind::Dram);
        for Block { addr, len, .. } in &*items {
            // NIXL's callers number host memory as they like; it is all one device.
            list.push(*addr, *len, 0);
        }
        Ok(list)
    }
}

macro_rules! list_functions {
    (
        $list:ty, $create:ident, $destroy:ident, $kind:ident, $count:ident, $is_empty:ident,
        $trim:ident, $remove:ident, $clear:ident, $resize:ident, $print:ident
    ) => {
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $create(kind: u32, out: Out<Handle>) -> Status {
            call(|| <$list>::create(kind, out))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $destroy(list: Handle) -> Status {
            call(|| list.take::<$list>().map(drop))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $kind(list: Handle, out: Out<u32>) -> Status {
            call(|| out.put(list.get::<$list>()?.kind))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $count(list: Handle, out: Out<usize>) -> Status {
            call(|| out.put(list.get::<$list>()?.items.lock().len()))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $is_empty(list: Handle, out: Out<bool>) -> Status {
            call(|| out.put(list.get::<$list>()?.items.lock().is_empty()))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $trim(list: Handle) -> Status {
            call(|| {
                list.get::<$list>()?.items.lock().shrink_to_fit();
                Ok(())
            })
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $remove(list: Handle, index: i32) -> Status {
            call(|| list.get::<$list>()?.remove(index))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $clear(list: Handle) -> Status {
            call(|| {
                list.get::<$list>()?.items.lock().clear();
                Ok(())
            })
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $resize(list: Handle, len: usize) -> Status {
            call(|| list.get::<$list>()?.resize(len, Default::default()))
        }

        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $print(list: Handle) -> Status {
            call(|| {
                list.get::<$list>()?.print();
                Ok(())
            })
        }
    };
}

list_functions!(
    XferList,
    nixl_capi_create_xfer_dlist,
    nixl_capi_destroy_xfer_dlist,
    nixl_capi_xfer_dlist_get_type,
    nixl_capi_xfer_dlist_desc_count,
    nixl_capi_xfer_dlist_is_empty,
    nixl_capi_xfer_dlist_trim,
    nixl_capi_xfer_dlist_rem_desc,
    nixl_capi_xfer_dlist_clear,
    nixl_capi_xfer_dlist_resize,
    nixl_capi_xfer_dlist_print
);

list_functions!(
    RegList,
    nixl_capi_create_reg_dlist,
    nixl_capi_destroy_reg_dlist,
    nixl_capi_reg_dlist_get_type,
    nixl_capi_reg_dlist_desc_count,
    nixl_capi_reg_dlist_is_empty,
    nixl_capi_reg_dlist_trim,
    nixl_capi_reg_dlist_rem_desc,
    nixl_capi_reg_dlist_clear,
    nixl_capi_reg_dlist_resize,
    nixl_capi_reg_dlist_print
);

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_xfer_dlist_add_desc(
    list: Handle,
    addr: usize,
    len: usize,
    dev: u64,
) -> Status {
    call(|| {
        let (addr, len) = (addr as u64, len as u64);
        let block = Block { addr, len, dev };
        list.get::<XferList>()?.items.lock().push(block);
        Ok(())
    })
}

/// The older name of `nixl_capi_xfer_dlist_desc_count`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_xfer_dlist_len(list: Handle, out: Out<usize>) -> Status {
    nixl_capi_xfer_dlist_desc_count(list, out)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_reg_dlist_add_desc(
    list: Handle,
    addr: usize,
    len: usize,
    dev: u64,
    meta: Array<u8>,
    meta_len: usize,
) -> Status {
    call(|| {
        let list = list.get::<RegList>()?;
        let (addr, len) = (addr as u64, len as u64);
        let block = Block { addr, len, dev };
        let meta = meta.get(meta_len)?.to_vec();
        list.items.lock().push(RegBlock { block, meta });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_create_remote_dlist(kind: u32, out: Out<Handle>) -> Status {
    call(|| RemoteList::create(kind, out))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_destroy_remote_dlist(list: Handle) -> Status {
    call(|| list.take::<RemoteList>().map(drop))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn nixl_capi_remote_dlist_add_desc(
    list: Handle,
    _addr: usize,
    _len: usize,
    _dev: u64,
    agent: Text,
) -> Status {
    call(|| {
        let list = list.get::<RemoteList>()?;
        let agent = match agent.is_null() {
            true => None,
            false => Some(agent.get()?.to_owned()),
        };
        list.items.lock().push(agent);
        Ok(())
    })
}
