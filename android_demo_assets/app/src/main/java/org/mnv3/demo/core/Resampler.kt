package org.mnv3.demo.core

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

/** A resampling kernel: its value at a distance, in pixels of the wider of source and result. */
class Filter(val support: Double, val value: (Double) -> Double) {
    companion object {
        fun named(name: String): Filter = when (name) {
            "bilinear" -> Filter(1.0) { x -> if (abs(x) < 1.0) 1.0 - abs(x) else 0.0 }
            "area" -> Filter(0.5) { x -> if (x > -0.5 && x <= 0.5) 1.0 else 0.0 }
            "bicubic" -> Filter(2.0) { x -> cubic(abs(x)) }
            else -> throw IllegalArgumentException("the interpolation $name is not known")
        }

        private const val A = -0.5

        private fun cubic(x: Double): Double = when {
            x < 1.0 -> ((A + 2.0) * x - (A + 3.0)) * x * x + 1
            x < 2.0 -> (((x - 5) * x + 8) * x - 4) * A
            else -> 0.0
        }
    }
}

/** Resampling as the contract words it: whole numbers after the weights are rounded, so every machine gets the same bytes. */
object Resampler {
    private const val BITS = 22
    private const val POINT_BITS = 5

    /** Along x, then along y, rounded to bytes after each; the filter is widened where the picture gets smaller. */
    fun filtered(
        source: Image, width: Int, height: Int, left: Float, top: Float, right: Float, bottom: Float, filter: Filter,
    ): Image {
        val columns = Weights(source.width, left, right, width, filter)
        val rows = Weights(source.height, top, bottom, height, filter)
        val wide = Image(width, source.height, ByteArray(width * source.height * 3))
        for (y in 0 until source.height) {
            for (x in 0 until width) {
                for (channel in 0 until 3) {
                    var sum = 1 shl (BITS - 1)
                    for (k in 0 until columns.count[x]) {
                        val value = source.bytes[(y * source.width + columns.first[x] + k) * 3 + channel].toInt() and 0xFF
                        sum += value * columns.weight[x][k]
                    }
                    wide.bytes[(y * width + x) * 3 + channel] = clip(sum shr BITS)
                }
            }
        }
        val result = Image(width, height, ByteArray(width * height * 3))
        for (y in 0 until height) {
            for (x in 0 until width) {
                for (channel in 0 until 3) {
                    var sum = 1 shl (BITS - 1)
                    for (k in 0 until rows.count[y]) {
                        val value = wide.bytes[((rows.first[y] + k) * width + x) * 3 + channel].toInt() and 0xFF
                        sum += value * rows.weight[y][k]
                    }
                    result.bytes[(y * width + x) * 3 + channel] = clip(sum shr BITS)
                }
            }
        }
        return result
    }

    private fun clip(value: Int): Byte = min(255, max(0, value)).toByte()

    /** For each output pixel its first source pixel, how many there are, and their weights in 2^-22. */
    private class Weights(size: Int, start: Float, end: Float, outputs: Int, filter: Filter) {
        val first = IntArray(outputs)
        val count = IntArray(outputs)
        val weight: Array<IntArray>

        init {
            val scale = (end - start).toDouble() / outputs
            val widening = max(scale, 1.0)
            val reach = filter.support * widening
            weight = Array(outputs) { i ->
                val centre = start + (i + 0.5) * scale
                val low = max(0, (centre - reach + 0.5).toInt())
                val high = min(size, (centre + reach + 0.5).toInt())
                first[i] = low
                count[i] = high - low
                val values = DoubleArray(high - low) { k -> filter.value((low + k - centre + 0.5) * (1.0 / widening)) }
                val sum = values.sum()
                IntArray(values.size) { k ->
                    val share = if (sum != 0.0) values[k] * (1.0 / sum) else values[k]
                    if (share < 0) (share * (1 shl BITS) - 0.5).toInt() else (share * (1 shl BITS) + 0.5).toInt()
                }
            }
        }
    }

    /** The source pixel that lies at each output pixel's centre. */
    fun nearest(source: Image, width: Int, height: Int, left: Float, top: Float, right: Float, bottom: Float): Image {
        val result = Image(width, height, ByteArray(width * height * 3))
        val columns = places(left, right, width, source.width)
        val rows = places(top, bottom, height, source.height)
        for (y in 0 until height) {
            for (x in 0 until width) {
                val from = (rows[y] * source.width + columns[x]) * 3
                source.bytes.copyInto(result.bytes, (y * width + x) * 3, from, from + 3)
            }
        }
        return result
    }

    /** Where the centres of output pixels lie: the step is added up, for whole numbers are where one rounding decides. */
    private fun places(start: Float, end: Float, outputs: Int, size: Int): IntArray {
        val step = (end - start).toDouble() / outputs
        var place = start + step * 0.5
        return IntArray(outputs) {
            val found = floor(place).toInt().coerceIn(0, size - 1)
            place += step
            found
        }
    }

    /** What MediaPipe's ImageClassifier does: points at multiples of the step, to 1/32 of a pixel, without antialiasing. */
    fun plainBilinear(source: Image, width: Int, height: Int): Image {
        val result = Image(width, height, ByteArray(width * height * 3))
        val unit = 1 shl POINT_BITS
        val stepX = source.width.toDouble() / width
        val stepY = source.height.toDouble() / height
        for (y in 0 until height) {
            val pointY = round(y * stepY * unit).toInt()
            val above = min(pointY shr POINT_BITS, source.height - 1)
            val below = min(above + 1, source.height - 1)
            val fractionY = pointY and (unit - 1)
            for (x in 0 until width) {
                val pointX = round(x * stepX * unit).toInt()
                val before = min(pointX shr POINT_BITS, source.width - 1)
                val after = min(before + 1, source.width - 1)
                val fractionX = pointX and (unit - 1)
                for (channel in 0 until 3) {
                    val upper = source.at(before, above, channel) * (unit - fractionX) + source.at(after, above, channel) * fractionX
                    val lower = source.at(before, below, channel) * (unit - fractionX) + source.at(after, below, channel) * fractionX
                    val sum = upper * (unit - fractionY) + lower * fractionY
                    result.bytes[(y * width + x) * 3 + channel] = ((sum + unit * unit / 2) shr (2 * POINT_BITS)).toByte()
                }
            }
        }
        return result
    }

    private fun Image.at(x: Int, y: Int, channel: Int): Int = bytes[(y * width + x) * 3 + channel].toInt() and 0xFF
}
