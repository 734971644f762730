//! Declarations of frames. From one declaration come a type, the code that writes it as JSON, its JSON Schema, and an example
//! that the same code writes. `/asyncapi.json` is made of them.
//!
//! ```text
//! frames! {
//!     /// What the frame is for.
//!     Sent<'a> "sent" {
//!         /// What the field is for.
//!         msgid: &'a str = "m-1",
//!     }
//! }
//! ```
//!
//! The text behind the name is the frame's `type`, the value behind a field its example. `timestamp as "created_at"` is a field
//! with another name in JSON. The comments are the descriptions in the document.

use serde_json::{Map, Value, json};

use super::values::FieldValue;

/// A frame that [`frames!`](crate::protocol::frames) has declared.
pub trait DeclaredFrame {
    /// Its `type`. `None`: it has none, or a field says it.
    const TYPE: Option<&'static str>;

    /// Appends the frame as JSON.
    fn put(&self, out: &mut String);

    /// What the frame looks like.
    fn declaration() -> Declaration;

    /// The frame as JSON.
    fn text(&self) -> String {
        self.text_of(0)
    }

    /// The frame as JSON, which has about so many bytes of texts.
    fn text_of(&self, bytes: usize) -> String {
        let mut out = String::with_capacity(256 + bytes);
        self.put(&mut out);
        out
    }
}

/// What a frame looks like.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// The name of its type.
    pub name: &'static str,
    /// What it is for.
    pub about: String,
    /// Its JSON Schema.
    pub schema: Value,
    /// An example, or several.
    pub examples: Vec<Value>,
}

impl Declaration {
    /// The declaration of a frame without fields yet.
    pub fn new(name: &'static str, about: &[&str], kind: Option<&str>) -> Self {
        let about = about.concat().trim().to_owned();
        let (mut properties, mut required) = (Map::new(), Vec::new());
        if let Some(kind) = kind {
            properties.insert("type".to_owned(), json!({ "type": "string", "const": kind }));
            required.push("type");
        }
        let schema = json!({ "type": "object", "properties": properties, "required": required });
        Self { name, about, schema, examples: Vec::new() }
    }

    /// Adds a field.
    pub fn add<T: FieldValue>(&mut self, name: &str, about: &[&str]) {
        let mut schema = T::schema();
        schema["description"] = about.concat().trim().into();
        self.schema["properties"][name] = schema;
        if T::IS_REQUIRED
            && let Some(required) = self.schema["required"].as_array_mut()
        {
            required.push(name.into());
        }
    }

    /// Adds a text as an example, which is JSON.
    pub fn with_example(mut self, text: &str) -> Self {
        self.examples.extend(serde_json::from_str::<Value>(text));
        self
    }

    /// Declares that the frame may have any other fields, too.
    pub fn open(mut self) -> Self {
        self.schema["additionalProperties"] = true.into();
        self
    }

    /// Declares that a field may be left out.
    pub fn without_required(mut self, name: &str) -> Self {
        if let Some(required) = self.schema["required"].as_array_mut() {
            required.retain(|one| one != name);
        }
        self
    }

    /// Declares what others get of such a frame: the same object, to which the broker adds the fields of `Added`.
    pub fn forwarded<Added: DeclaredFrame>(self, name: &'static str) -> Self {
        let Self { about, schema: mut added, examples, .. } = Added::declaration();
        let fields = |schema: &mut Value, key: &str| std::mem::take(&mut schema[key]);
        let mut sent = self.schema;
        if let (Value::Object(all), Value::Object(own)) = (&mut added["properties"], fields(&mut sent, "properties")) {
            own.into_iter().for_each(|(key, value)| _ = all.entry(key).or_insert(value));
        }
        if let (Value::Array(all), Value::Array(own)) = (&mut added["required"], fields(&mut sent, "required")) {
            all.extend(own);
        }
        let examples = self.examples.into_iter().zip(examples.into_iter().cycle()).map(|(sent, mut example)| {
            if let (Value::Object(all), Value::Object(own)) = (&mut example, sent) {
                all.extend(own);
            }
            example
        });
        Self { name, about, schema: added, examples: examples.collect() }.open()
    }
}

/// A JSON object that is being written.
pub struct Object<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object, with its `type` if it has one.
    pub fn begin(out: &'a mut String, kind: Option<&str>) -> Self {
        out.push('{');
        if let Some(kind) = kind {
            out.push_str("\"type\":\"");
            out.push_str(kind);
            out.push('"');
        }
        Self { out, is_empty: kind.is_none() }
    }

    /// Appends a field, unless it is left out.
    pub fn put(&mut self, key: &str, value: &impl FieldValue) {
        if value.is_left_out() {
            return;
        }
        self.out.push_str(if self.is_empty { "\"" } else { ",\"" });
        self.out.push_str(key);
        self.out.push_str("\":");
        value.put(self.out);
        self.is_empty = false;
    }

    /// Ends the object.
    pub fn end(self) {
        self.out.push('}');
    }
}

/// Declares frames; see the module.
macro_rules! frames {
    ($(
        $(#[doc = $about:literal])+
        $name:ident $(<$life:lifetime>)? $($kind:literal)? {
            $($(#[doc = $what:literal])+ $field:ident $(as $key:literal)?: $type:ty = $example:expr,)*
        }
    )*) => {$(
        $(#[doc = $about])+
        #[derive(Debug)]
        pub struct $name $(<$life>)? {
            $($(#[doc = $what])+ pub $field: $type,)*
        }

        impl $(<$life>)? $crate::protocol::frames::DeclaredFrame for $name $(<$life>)? {
            const TYPE: Option<&'static str> = $crate::protocol::frames::frames!(@kind $($kind)?);

            fn put(&self, out: &mut String) {
                #[allow(unused_mut, reason = "it may have no fields")]
                let mut object = $crate::protocol::frames::Object::begin(out, Self::TYPE);
                $(object.put($crate::protocol::frames::frames!(@key $field $($key)?), &self.$field);)*
                object.end();
            }

            fn declaration() -> $crate::protocol::frames::Declaration {
                #[allow(unused_mut, reason = "it may have no fields")]
                let mut declared =
                    $crate::protocol::frames::Declaration::new(stringify!($name), &[$($about),+], Self::TYPE);
                $(declared.add::<$type>($crate::protocol::frames::frames!(@key $field $($key)?), &[$($what),+]);)*
                declared.with_example(&Self::example().text())
            }
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// The example in its declaration.
            pub fn example() -> Self {
                Self { $($field: $example,)* }
            }
        }
    )*};
    (@kind) => { None };
    (@kind $kind:literal) => { Some($kind) };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}

pub(crate) use frames;
