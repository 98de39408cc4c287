"""Messages of protobuf as the documents that Triton's HTTP port sends: one reader serves both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["chosen_values", "document_from_message"]


def chosen_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of messages that each hold one of several types, such as parameters; without those that hold none."""
    return {
        name: getattr(value, kind)
        for name, value in parameters.items()
        if (kind := value.WhichOneof("parameter_choice")) is not None
    }


def document_from_message(message: Any) -> dict[str, Any]:
    """The fields by their names in the .proto file, integers as integers; unset message fields are omitted.

    protobuf's own JSON writes 64-bit integers as strings; Triton's HTTP port does not.
    """
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            document[field.name] = {str(key): _map_value(field, value[key]) for key in value}
        elif _repeated(field):
            document[field.name] = [_value(field, part) for part in value]
        elif field.message_type is None or message.HasField(field.name):
            document[field.name] = _value(field, value)
    return document


def _repeated(field: Any) -> bool:
    repeated = getattr(field, "is_repeated", None)
    return field.label == FieldDescriptor.LABEL_REPEATED if repeated is None else bool(repeated)


def _map_value(field: Any, value: Any) -> Any:
    return _value(field.message_type.fields_by_name["value"], value)


def _value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return document_from_message(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    return value.decode(errors="replace") if isinstance(value, bytes) else value
