//! Shapes of the KV caches that models keep, and what a transfer of one looks like.

use std::str::FromStr;

use serde::Deserialize;

/// Most layers of a shape.
pub(crate) const MAX_LAYERS: u64 = 1000;
/// Most bytes of one token in one tensor.
pub(crate) const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// What decides the size of a model's KV cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    /// Name, for reports.
    pub(crate) model: String,
    /// Layers that have a cache.
    pub(crate) layers: u64,
    /// Separate tensors per layer: 2 (keys, values), or 1 for MLA's joint latent.
    pub(crate) tensors: u64,
    /// Bytes of one token in one tensor of one layer.
    pub(crate) token_bytes: u64,
}

/// (name, layers, KV heads, head dimension) of models with separate keys and values, bf16.
const KNOWN: [(&str, u64, u64, u64); 3] = [
    ("llama3.1-8b", 32, 8, 128),
    ("llama3.1-70b", 80, 8, 128),
    ("qwen3-8b", 36, 8, 128),
];

/// DeepSeek-V3: layers, latent rank, rotary dimension; one bf16 latent per token and layer.
const DEEPSEEK_V3: (&str, u64, u64, u64) = ("deepseek-v3", 61, 512, 64);

const BF16: u64 = 2;

impl KvShape {
    /// A model by name, in any case and spelling of its separators.
    fn named(name: &str) -> Option<Self> {
        let plain = |s: &str| -> String {
            s.chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase())
                .collect()
        };
        let wanted = plain(name);
        if plain(DEEPSEEK_V3.0) == wanted {
            let (model, layers, rank, rope) = DEEPSEEK_V3;
            return Some(Self::mla(model, layers, rank, rope, BF16));
        }
        KNOWN
            .iter()
            .find(|(model, ..)| plain(model) == wanted || plain(model).replace("31", "") == wanted)
            .map(|&(model, layers, heads, dim)| Self::gqa(model, layers, heads, dim, BF16))
    }

    /// Names that [`KvShape::named`] knows.
    fn names() -> Vec<&'static str> {
        let mut names: Vec<_> = KNOWN.iter().map(|k| k.0).collect();
        names.push(DEEPSEEK_V3.0);
        names
    }

    /// Separate keys and values per layer.
    fn gqa(model: &str, layers: u64, kv_heads: u64, head_dim: u64, dtype: u64) -> Self {
        Self {
            model: model.to_owned(),
            layers,
            tensors: 2,
            token_bytes: kv_heads.saturating_mul(head_dim).saturating_mul(dtype),
        }
    }

    /// Multi-head latent attention: one latent and one rotary key per token and layer.
    fn mla(model: &str, layers: u64, rank: u64, rope: u64, dtype: u64) -> Self {
        Self {
            model: model.to_owned(),
            layers,
            tensors: 1,
            token_bytes: rank.saturating_add(rope).saturating_mul(dtype),
        }
    }

    /// Reads a Hugging Face `config.json`.
    pub(crate) fn from_config(json: &str) -> Result<Self, String> {
        let config: HfConfig =
            serde_json::from_str(json).map_err(|e| format!("config.json does not parse: {e}"))?;
        let shape = config.shape()?;
        if shape.layers > MAX_LAYERS || !(1..=MAX_TOKEN_BYTES).contains(&shape.token_bytes) {
            return Err(format!(
                "config.json describes {} layers with {} bytes for each token in a tensor; \
                 this takes 1 to {MAX_LAYERS} layers and 1 to {MAX_TOKEN_BYTES} bytes",
                shape.layers, shape.token_bytes
            ));
        }
        Ok(shape)
    }

    /// Blocks of a cache of `tokens` tokens in pages of `page` tokens: every layer and tensor has
    /// one block per page.
    pub(crate) fn blocks(&self, tokens: u64, page: u64) -> u64 {
        tokens.div_ceil(page) * self.layers * self.tensors
    }

    /// Bytes of one block.
    pub(crate) fn block_bytes(&self, page: u64) -> u64 {
        self.token_bytes * page
    }
}

impl FromStr for KvShape {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::named(name).ok_or_else(|| {
            format!(
                "known models: {}; for others give --config, or --layers and --token-bytes",
                Self::names().join(", ")
            )
        })
    }
}

/// The fields of a Hugging Face `config.json` that decide the shape.
#[derive(Deserialize)]
struct HfConfig {
    #[serde(default)]
    model_type: String,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    hidden_size: Option<u64>,
    head_dim: Option<u64>,
    kv_lora_rank: Option<u64>,
    qk_rope_head_dim: Option<u64>,
    #[serde(alias = "dtype")]
    torch_dtype: Option<String>,
    text_config: Option<Box<HfConfig>>,
}

impl HfConfig {
    fn shape(&self) -> Result<KvShape, String> {
        if let (None, Some(text)) = (self.num_hidden_layers, &self.text_config) {
            return text.shape();
        }
        let need = |field: Option<u64>, name: &str| match field {
            Some(n) if n > 0 => Ok(n),
            _ => Err(format!("config.json has no usable {name}")),
        };
        let layers = need(self.num_hidden_layers, "num_hidden_layers")?;
        let dtype = match self.torch_dtype.as_deref() {
            None | Some("bfloat16" | "float16" | "half") => BF16,
            Some("float32" | "float") => 4,
            Some(d) if d.starts_with("float8") => 1,
            Some(other) => return Err(format!("config.json has an unknown torch_dtype {other:?}")),
        };
        let model = if self.model_type.is_empty() {
            "custom"
        } else {
            &self.model_type
        };
        if let Some(rank) = self.kv_lora_rank {
            let rope = need(self.qk_rope_head_dim, "qk_rope_head_dim")?;
            return Ok(KvShape::mla(model, layers, rank, rope, dtype));
        }
        let heads = need(self.num_attention_heads, "num_attention_heads")?;
        let kv_heads = self.num_key_value_heads.unwrap_or(heads);
        let dim = match self.head_dim {
            Some(dim) => dim,
            None => need(self.hidden_size, "hidden_size")? / heads,
        };
        Ok(KvShape::gqa(model, layers, kv_heads, dim, dtype))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_have_the_sizes_of_the_workloads() {
        let llama = KvShape::named("Llama-3.1-8B").unwrap();
        assert_eq!(
            (llama.blocks(4000, 16), llama.block_bytes(16)),
            (16_000, 32 << 10)
        );
        assert_eq!(
            (llama.blocks(1024, 1), llama.block_bytes(1)),
            (65_536, 2 << 10)
        );
        let deepseek = KvShape::named("DeepSeek-V3").unwrap();
        assert_eq!(
            (deepseek.blocks(4000, 16), deepseek.block_bytes(16)),
            (15_250, 18 << 10)
        );
        assert_eq!(KvShape::named("llama3.1-70b").unwrap().layers, 80);
        assert_eq!(KvShape::named("qwen3-8b").unwrap().blocks(16, 16), 72);
        assert!(KvShape::named("gpt-2").is_none());
        assert_eq!(llama.blocks(4001, 16), 251 * 64, "a started page counts");
    }

    #[test]
    fn config_json_gives_the_same_shapes() {
        let llama = r#"{"model_type":"llama","num_hidden_layers":32,"num_attention_heads":32,
            "num_key_value_heads":8,"hidden_size":4096,"torch_dtype":"bfloat16"}"#;
        let shape = KvShape::from_config(llama).unwrap();
        let known = KvShape::named("llama3.1-8b").unwrap();
        assert_eq!(
            (shape.layers, shape.tensors, shape.token_bytes),
            (known.layers, known.tensors, known.token_bytes)
        );
        let mla = r#"{"model_type":"deepseek_v3","num_hidden_layers":61,"kv_lora_rank":512,
            "qk_rope_head_dim":64,"num_attention_heads":128}"#;
        assert_eq!(KvShape::from_config(mla).unwrap().token_bytes, 1152);
    }

    #[test]
    fn unusable_configs_say_what_is_missing() {
        for (json, word) in [
            ("{", "parse"),
            ("{}", "num_hidden_layers"),
            (r#"{"num_hidden_layers":2}"#, "num_attention_heads"),
            (
                r#"{"num_hidden_layers":2,"num_attention_heads":0,"hidden_size":8}"#,
                "num_attention_heads",
            ),
            (
                r#"{"num_hidden_layers":2,"kv_lora_rank":512}"#,
                "qk_rope_head_dim",
            ),
            (
                r#"{"num_hidden_layers":2,"num_attention_heads":2,"hidden_size":8,"torch_dtype":"int3"}"#,
                "int3",
            ),
            (
                r#"{"num_hidden_layers":2,"num_attention_heads":1,"head_dim":99999999999999999}"#,
                "bytes for each token",
            ),
            (
                r#"{"num_hidden_layers":2,"num_attention_heads":64,"hidden_size":8}"#,
                "0 bytes",
            ),
        ] {
            let e = KvShape::from_config(json).unwrap_err();
            assert!(e.contains(word), "{json}: {e}");
        }
    }
}
