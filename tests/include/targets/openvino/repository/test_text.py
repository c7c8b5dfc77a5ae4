from __future__ import annotations

import random
from pathlib import Path

import pytest
from text import Decoder, Piece, StopWords, Transcript
from tokenizers import Tokenizer

from tests.support.tiny_models import END, byte_level, sentencepiece

ROUNDS = 60


@pytest.fixture(scope="module", params=[byte_level, sentencepiece], ids=["byte level", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


@pytest.fixture(scope="module")
def decoder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    return Decoder(folder, skip_special_tokens=True)


def _text(decoder: Decoder, pieces: list[Piece]) -> str:
    """What postprocessing makes of the pieces, one after the other."""
    text = ""
    for piece in pieces:
        known = decoder.text(piece.context)
        part = decoder.text([*piece.context, *piece.ids])[len(known) :]
        text += part[: len(part) - piece.overhang]
    return text


def _pieces(transcript: Transcript, ids: list[int]) -> list[Piece]:
    """A stream's pieces until a stop word or the last id."""
    pieces = []
    for token_id in ids:
        if transcript.add(token_id):
            break
        if piece := transcript.take():
            pieces.append(piece)
    return [*pieces, transcript.rest()]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_pieces_of_any_tokens_join_to_the_text(tokenizer: Tokenizer, decoder: Decoder, seed: int) -> None:
    """Also of broken characters, special tokens and spaces, which random ids hold plenty of."""
    rng = random.Random(seed)
    ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(1, 80))]
    prompt = [rng.randrange(300, tokenizer.get_vocab_size()) for _ in range(rng.randrange(3))]
    transcript = Transcript(decoder, StopWords(), prompt)
    pieces = _pieces(transcript, ids)
    assert _text(decoder, pieces) == decoder.text([*prompt, *ids])
    assert sum(piece.length for piece in pieces) == transcript.length == len(ids)


TEXT = "  The naïve café — 日本語 😀😀\n\tsays: six sixty."


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_pieces_of_several_tokens_join_to_the_text(tokenizer: Tokenizer, decoder: Decoder, seed: int) -> None:
    rng = random.Random(seed)
    ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randrange(1, 80))]
    transcript, pieces = Transcript(decoder, StopWords()), list[Piece]()
    for token_id in ids:
        assert not transcript.add(token_id)
        if rng.random() < 1 / 4 and (piece := transcript.take()):
            pieces.append(piece)
    assert _text(decoder, [*pieces, transcript.rest()]) == decoder.text(ids)


def test_pieces_of_a_real_text_hold_no_broken_character(tokenizer: Tokenizer, decoder: Decoder) -> None:
    pieces = _pieces(Transcript(decoder, StopWords()), tokenizer.encode(TEXT).ids)
    assert all("\N{REPLACEMENT CHARACTER}" not in _text(decoder, [piece]) for piece in pieces)
    assert _text(decoder, pieces) == decoder.text(tokenizer.encode(TEXT).ids)
    assert len(pieces) > 10


@pytest.mark.parametrize("word", ["six", " six", "x sixt", "日", "😀", "\n", "says: six"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_answer_ends_with_the_stop_word(tokenizer: Tokenizer, decoder: Decoder, word: str, streamed: bool) -> None:
    ids = tokenizer.encode(TEXT).ids
    stop = StopWords.of([tokenizer.encode("nowhere").ids, tokenizer.encode(word).ids], decoder)
    transcript = Transcript(decoder, stop)
    if streamed:
        text = _text(decoder, _pieces(transcript, ids))
    else:
        assert any(transcript.add(token_id) for token_id in ids)
        text = _text(decoder, [transcript.rest()])
    whole = decoder.text(ids)
    assert text == whole[: whole.index(word.strip(" ")) + len(word.strip(" "))]


def test_the_first_of_several_stop_words_ends_the_answer(tokenizer: Tokenizer, decoder: Decoder) -> None:
    stop = StopWords.of([tokenizer.encode(word).ids for word in ("six", "says", "sixty")], decoder)
    transcript = Transcript(decoder, stop)
    assert any(transcript.add(token_id) for token_id in tokenizer.encode(TEXT).ids)
    assert _text(decoder, [transcript.rest()]).endswith("says")


def test_special_token_stops_though_it_has_no_text(tokenizer: Tokenizer, decoder: Decoder) -> None:
    end = tokenizer.token_to_id(END)
    transcript = Transcript(decoder, StopWords.of([[end]], decoder))
    assert not any(transcript.add(token_id) for token_id in tokenizer.encode("The cat").ids)
    assert transcript.add(end)


def test_stop_word_in_the_prompt_does_not_end_the_answer(tokenizer: Tokenizer, decoder: Decoder) -> None:
    prompt = tokenizer.encode("count to six").ids
    transcript = Transcript(decoder, StopWords.of([tokenizer.encode("six").ids], decoder), prompt)
    more = tokenizer.encode("one two").ids
    assert not any(transcript.add(token_id) for token_id in more)
    assert transcript.length == len(more)
    assert _text(decoder, [transcript.rest()]) == decoder.text([*prompt, *more])


def test_nothing_is_taken_twice(tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path) -> None:
    transcript = Transcript(decoder, StopWords())
    assert transcript.take() is None
    for token_id in tokenizer.encode("The cat sat").ids:
        transcript.add(token_id)
    assert transcript.take() is not None
    assert transcript.take() is None
