//! NIXL's settings: a variable of the environment, else the key of the same name in the TOML file
//! that `NIXL_CONFIG_FILE` names.

use std::{env, fs};

use nixl_core::{Error, ErrorKind, Result};

/// The variable that names the file.
const FILE: &str = "NIXL_CONFIG_FILE";

/// What `name` is set to. NIXL's other places for its file (`~/.nixl.cfg`, `/etc/nixl.cfg`) are not
/// looked at.
///
/// Errors: `ApiMisuse` for a file that cannot be read, is no TOML, or has a table or a list there.
pub fn setting(name: &str) -> Result<Option<String>> {
    if let Ok(value) = env::var(name) {
        return Ok(Some(value));
    }
    let Ok(path) = env::var(FILE) else {
        return Ok(None);
    };
    let text = fs::read_to_string(&path).map_err(|e| misuse(&path, &e.to_string()))?;
    key(&text, name).map_err(|why| misuse(&path, &why))
}

fn misuse(path: &str, why: &str) -> Error {
    Error::new(ErrorKind::ApiMisuse, format!("{FILE} = {path:?}: {why}"))
}

fn key(text: &str, name: &str) -> std::result::Result<Option<String>, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    match table.get(name) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(toml::Value::Boolean(flag)) => Ok(Some(flag.to_string())),
        Some(toml::Value::Integer(number)) => Ok(Some(number.to_string())),
        Some(other) => Err(format!("{name} = {other} is no text, number or flag")),
    }
}

#[cfg(test)]
mod tests {
    use super::key;

    #[test]
    fn keys_are_those_of_the_environment() {
        let text = "NIXL_A = \"http://h:1\"\nNIXL_B = true\nNIXL_C = 7\nNIXL_D = [1]\n";
        assert_eq!(key(text, "NIXL_A"), Ok(Some("http://h:1".to_owned())));
        assert_eq!(key(text, "NIXL_B"), Ok(Some("true".to_owned())));
        assert_eq!(key(text, "NIXL_C"), Ok(Some("7".to_owned())));
        assert_eq!(key(text, "NIXL_E"), Ok(None));
        assert!(key(text, "NIXL_D").unwrap_err().contains("NIXL_D"));
        assert!(key("no toml", "NIXL_A").is_err());
    }
}
