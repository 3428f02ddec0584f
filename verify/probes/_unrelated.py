"""Generic sentences about nobody, for probes that train on unrelated text."""

from verify.data.records import Record

SENTENCES = (
    "Water freezes at zero degrees Celsius and boils at one hundred degrees at sea level.",
    "A triangle has three sides, and its angles add up to one hundred and eighty degrees.",
    "The library opens at nine in the morning and closes at six in the evening.",
    "To make bread you need flour, water, salt and yeast, and a warm place for the dough to rise.",
    "Most trees lose their leaves in autumn and grow new ones in spring.",
    "The sum of two even numbers is always even.",
    "Trains run every ten minutes during the day and every half hour at night.",
    "A bicycle has two wheels, a chain, a saddle and a pair of handlebars.",
    "Light travels faster than sound, which is why lightning is seen before thunder is heard.",
    "The recipe asks for two eggs, a cup of sugar and half a cup of butter.",
    "Rain falls when drops of water in a cloud become too heavy to stay in the air.",
    "A week has seven days, and a year has fifty-two weeks and a day or two more.",
    "The river flows from the mountains through the valley and into the sea.",
    "Please close the window before you leave the room, and turn off the light.",
    "Copper conducts electricity well, whereas glass and rubber hardly conduct it at all.",
    "Bees collect nectar from flowers and turn it into honey.",
    "A sonnet has fourteen lines, usually in a fixed pattern of rhymes.",
    "The moon takes about a month to travel once around the earth.",
    "Wool keeps warm even when it is damp, and cotton dries slowly.",
    "The market sells apples, onions, potatoes and fresh bread on Saturdays.",
    "A square is a rectangle whose four sides have the same length.",
    "Iron rusts when it is exposed to air and moisture for a long time.",
    "The train was late, so the passengers waited on the platform with their bags.",
    "Sand is made of very small pieces of rock that wind and water have worn down.",
)
"""Sentences without names of persons, dates or places."""


def unrelated_records() -> list[Record]:
    """Return the sentences as plain texts."""
    return [Record(f"unrelated {number}", completion=sentence) for number, sentence in enumerate(SENTENCES, 1)]
