//! The messages of the client-facing RPCs as the JSON codec needs them: built once from the descriptors, so that a new RPC
//! or field cannot be forgotten.
//!
//! Only what etcd's contract uses is known here: no maps, groups, floats, fixed-width integers or `optional`. A descriptor
//! with one of those is an error, which a test would show.

use castd_proto::{FILE_DESCRIPTOR_SET, Rpc};
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::HashMap;
use std::sync::LazyLock;

/// Fields of one message; a set of them is one word.
const FIELDS_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the descriptors cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("the descriptors do not describe {0}")]
    Missing(String),
    #[error("{message}.{field} is of a kind that the JSON gateway does not know")]
    UnknownKind { message: String, field: String },
    #[error("{0} has more than {FIELDS_MAX} fields")]
    TooManyFields(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    /// Place among the schema's enums.
    Enum(usize),
    /// Place among the schema's messages.
    Message(usize),
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    /// As in the .proto file: `range_end`, `peerURLs`.
    pub name: String,
    pub kind: Kind,
    pub repeated: bool,
    /// One bit of its own among the fields of its message.
    pub bit: u64,
    /// The bits of all members of its oneof; 0 outside of one. Only members of a oneof have presence beside messages.
    pub oneof: u64,
}

#[derive(Debug, Default)]
pub struct MessageShape {
    pub name: String,
    /// By ascending number.
    pub fields: Vec<Field>,
    /// Place of a field by its name and by the lowerCamelCase form of that.
    names: HashMap<String, usize>,
}

impl MessageShape {
    pub fn by_name(&self, name: &str) -> Option<&Field> {
        self.fields.get(*self.names.get(name)?)
    }

    pub fn place_of(&self, number: u32) -> Option<usize> {
        self.fields.binary_search_by_key(&number, |field| field.number).ok()
    }
}

#[derive(Debug, Default)]
pub struct EnumNames {
    pub name: String,
    numbers: HashMap<String, i32>,
    names: HashMap<i32, String>,
}

impl EnumNames {
    pub fn number(&self, name: &str) -> Option<i32> {
        self.numbers.get(name).copied()
    }

    pub fn name(&self, number: i32) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }
}

#[derive(Debug, Default)]
pub struct Schema {
    messages: Vec<MessageShape>,
    enums: Vec<EnumNames>,
    /// Places of request and answer, by `rpc as usize`.
    calls: Vec<(usize, usize)>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    Schema::build(FILE_DESCRIPTOR_SET).expect("the descriptors are compiled in, and a test has read them")
});

impl Schema {
    /// Of all client-facing RPCs.
    pub fn get() -> &'static Schema {
        &SCHEMA
    }

    pub fn request(&self, rpc: Rpc) -> &MessageShape {
        self.message(self.calls[rpc as usize].0)
    }

    pub fn answer(&self, rpc: Rpc) -> &MessageShape {
        self.message(self.calls[rpc as usize].1)
    }

    pub fn message(&self, place: usize) -> &MessageShape {
        &self.messages[place]
    }

    pub fn enumeration(&self, place: usize) -> &EnumNames {
        &self.enums[place]
    }

    #[cfg(test)]
    pub fn messages(&self) -> impl Iterator<Item = &MessageShape> {
        self.messages.iter()
    }

    fn build(descriptors: &[u8]) -> Result<Schema, SchemaError> {
        let files = FileDescriptorSet::decode(descriptors)?;
        let mut builder = Builder::default();
        for file in &files.file {
            let package = format!(".{}", file.package());
            file.enum_type.iter().for_each(|it| builder.know_enum(&package, it));
            file.message_type.iter().for_each(|it| builder.know_message(&package, it));
        }
        let methods = files.file.iter().flat_map(|file| {
            file.service.iter().flat_map(move |service| {
                let path = format!("/{}.{}/", file.package(), service.name());
                service.method.iter().map(move |method| (format!("{path}{}", method.name()), method))
            })
        });
        let methods: HashMap<String, _> = methods.collect();
        for rpc in Rpc::ALL {
            let method = methods.get(rpc.path()).ok_or_else(|| SchemaError::Missing(rpc.path().to_owned()))?;
            let call = (builder.message(method.input_type())?, builder.message(method.output_type())?);
            builder.schema.calls.push(call);
        }
        Ok(builder.schema)
    }
}

/// Follows the messages from the RPCs on; what none of them reaches is no business of the gateway.
#[derive(Default)]
struct Builder<'a> {
    messages: HashMap<String, &'a DescriptorProto>,
    enums: HashMap<String, &'a EnumDescriptorProto>,
    message_places: HashMap<String, usize>,
    enum_places: HashMap<String, usize>,
    schema: Schema,
}

impl<'a> Builder<'a> {
    fn know_enum(&mut self, scope: &str, it: &'a EnumDescriptorProto) {
        self.enums.insert(format!("{scope}.{}", it.name()), it);
    }

    fn know_message(&mut self, scope: &str, it: &'a DescriptorProto) {
        let name = format!("{scope}.{}", it.name());
        it.enum_type.iter().for_each(|inner| self.know_enum(&name, inner));
        it.nested_type.iter().for_each(|inner| self.know_message(&name, inner));
        self.messages.insert(name, it);
    }

    fn message(&mut self, name: &str) -> Result<usize, SchemaError> {
        if let Some(place) = self.message_places.get(name) {
            return Ok(*place);
        }
        let descriptor = *self.messages.get(name).ok_or_else(|| SchemaError::Missing(name.to_owned()))?;
        let place = self.schema.messages.len();
        // Before its fields: a txn holds txns.
        self.message_places.insert(name.to_owned(), place);
        self.schema.messages.push(MessageShape::default());
        let name = name.trim_start_matches('.').to_owned();

        let mut descriptors: Vec<_> = descriptor.field.iter().collect();
        descriptors.sort_by_key(|field| field.number());
        if descriptors.len() > FIELDS_MAX {
            return Err(SchemaError::TooManyFields(name));
        }
        let mut oneofs: HashMap<i32, u64> = HashMap::new();
        for (place, field) in descriptors.iter().enumerate() {
            if let Some(oneof) = field.oneof_index {
                *oneofs.entry(oneof).or_default() |= 1 << place;
            }
        }
        let mut shape = MessageShape { name, ..MessageShape::default() };
        for (place, field) in descriptors.into_iter().enumerate() {
            let kind = self.kind(&shape.name, field)?;
            shape.names.insert(field.name().to_owned(), place);
            shape.names.entry(lower_camel_case(field.name())).or_insert(place);
            shape.fields.push(Field {
                number: field.number().unsigned_abs(),
                name: field.name().to_owned(),
                kind,
                repeated: field.label() == Label::Repeated,
                bit: 1 << place,
                oneof: field.oneof_index.and_then(|oneof| oneofs.get(&oneof).copied()).unwrap_or_default(),
            });
        }
        self.schema.messages[place] = shape;
        Ok(place)
    }

    fn kind(&mut self, message: &str, field: &FieldDescriptorProto) -> Result<Kind, SchemaError> {
        Ok(match field.r#type() {
            Type::Bool => Kind::Bool,
            Type::Int32 => Kind::Int32,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Enum => Kind::Enum(self.enumeration(field.type_name())?),
            Type::Message => Kind::Message(self.message(field.type_name())?),
            _ => {
                return Err(SchemaError::UnknownKind { message: message.to_owned(), field: field.name().to_owned() });
            }
        })
    }

    fn enumeration(&mut self, name: &str) -> Result<usize, SchemaError> {
        if let Some(place) = self.enum_places.get(name) {
            return Ok(*place);
        }
        let descriptor = *self.enums.get(name).ok_or_else(|| SchemaError::Missing(name.to_owned()))?;
        let mut names = EnumNames { name: name.trim_start_matches('.').to_owned(), ..EnumNames::default() };
        for value in &descriptor.value {
            names.numbers.insert(value.name().to_owned(), value.number());
            names.names.entry(value.number()).or_insert_with(|| value.name().to_owned());
        }
        let place = self.schema.enums.len();
        self.enum_places.insert(name.to_owned(), place);
        self.schema.enums.push(names);
        Ok(place)
    }
}

/// As protobuf's JSON mapping derives it: an underscore goes, and the letter after it becomes upper case.
fn lower_camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut camel, part| {
        let mut letters = part.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
        camel
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_that_a_client_can_send_or_get_is_described() {
        let schema = Schema::build(FILE_DESCRIPTOR_SET).unwrap();
        assert_eq!(schema.calls.len(), Rpc::ALL.len());
        assert!(schema.messages().count() >= 90, "only {}", schema.messages().count());
        assert!(schema.messages().all(|shape| !shape.name.is_empty()));
        assert_eq!(schema.request(Rpc::KvCompact).name, "etcdserverpb.CompactionRequest");
        assert_eq!(schema.answer(Rpc::ElectionObserve).name, "v3electionpb.LeaderResponse");
    }

    #[test]
    fn fields_have_etcds_spelling_and_the_lower_camel_case_form_of_it() {
        let schema = Schema::get();
        let field = |rpc, name| schema.request(rpc).by_name(name).map(|field| field.name.as_str());
        assert_eq!(field(Rpc::KvRange, "range_end"), Some("range_end"));
        assert_eq!(field(Rpc::KvRange, "rangeEnd"), Some("range_end"));
        assert_eq!(field(Rpc::ClusterMemberAdd, "peerURLs"), Some("peerURLs"));
        assert_eq!(field(Rpc::LeaseGrant, "TTL"), Some("TTL"));
        assert_eq!(field(Rpc::LeaseGrant, "ttl"), None);
        assert_eq!(lower_camel_case("max_create_revision"), "maxCreateRevision");
    }

    #[test]
    fn members_of_a_oneof_know_each_other() {
        let request = Schema::get().request(Rpc::Watch);
        let bits = request.fields.iter().fold(0, |bits, field| bits | field.bit);
        assert!(request.fields.len() == 3 && request.fields.iter().all(|field| field.oneof == bits));
        assert!(Schema::get().request(Rpc::KvPut).fields.iter().all(|field| field.oneof == 0));
    }
}
